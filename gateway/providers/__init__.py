"""Translates between providers' HTTP formats and the domain. Pure: no clock, no environment, no network.

A new provider is one file with a class that implements protocol.py, and one line in `PROVIDERS`; one that speaks
OpenAI's format is a profile in openai/profiles.py.
"""

from collections.abc import Mapping
from typing import Final

from gateway.providers.ai302 import Ai302
from gateway.providers.ai302_tasks import Ai302Tasks
from gateway.providers.bfl import BlackForestLabs
from gateway.providers.fal import Fal
from gateway.providers.glif import Glif
from gateway.providers.google import Google
from gateway.providers.ideogram import Ideogram
from gateway.providers.luma import Luma
from gateway.providers.luma_photon import LumaPhoton
from gateway.providers.midjourney import Midjourney
from gateway.providers.minimax import MiniMax
from gateway.providers.openai import OpenAI
from gateway.providers.openai.profiles import PROFILES
from gateway.providers.protocol import Provider
from gateway.providers.replicate import Replicate
from gateway.providers.stability import Stability

PROVIDERS: Final[Mapping[str, Provider]] = {
    "302ai": Ai302(),
    "302ai-tasks": Ai302Tasks(),
    "bfl": BlackForestLabs(),
    "fal": Fal(),
    "glif": Glif(),
    "google": Google(),
    "ideogram": Ideogram(),
    "luma": Luma(),
    "luma-photon": LumaPhoton(),
    "midjourney": Midjourney(),
    "minimax": MiniMax(),
    "replicate": Replicate(),
    "stability": Stability(),
    **{name: OpenAI(profile) for name, profile in PROFILES.items()},
}
