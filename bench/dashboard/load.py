"""Tenants that request images, each with its own pattern, for a given time."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import aiohttp

_WAVE_S: Final = 150.0
"""Period of the load, so that the queue fills and empties more than once in an image."""
_TICK_S: Final = 0.1

Ask = Callable[[str, dict[str, object]], Coroutine[None, None, None]]
"""Sends a body to a path and waits for the response."""


@dataclass(frozen=True, slots=True)
class Habit:
    """Request pattern of a tenant."""

    tenant: str
    requests_per_minute: float
    path: str = "/v1/images/generations"
    images: int = 1
    limits: Mapping[str, object] = field(default_factory=dict)
    """The tenant's limits, in the admin API's format."""
    words: Mapping[str, float] = field(default_factory=dict)
    """Fault words of its prompts, and the share of prompts with each."""


async def drive(url: str, habits: Sequence[Habit], keys: Mapping[str, str], seconds: float, seed: int = 1) -> int:
    """Sends requests by the patterns and returns their number. Runs with equal seeds are nearly equal."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(180)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        ask = partial(_ask, session, url)
        tasks = [
            asyncio.create_task(_keep_asking(partial(ask, keys[habit.tenant]), habit, seconds, seed))
            for habit in habits
        ]
        return sum(await asyncio.gather(*tasks))


async def _keep_asking(ask: Ask, habit: Habit, seconds: float, seed: int) -> int:
    chance = random.Random(f"{seed}{habit}")  # noqa: S311 - no secret
    started, sent = time.monotonic(), 0
    async with asyncio.TaskGroup() as in_flight:
        while (at := time.monotonic() - started) < seconds:
            wave = 1 + 0.8 * math.sin(2 * math.pi * at / _WAVE_S)
            if chance.random() < habit.requests_per_minute / 60 * _TICK_S * wave:
                in_flight.create_task(ask(habit.path, _body(habit, chance)))
                sent += 1
            await asyncio.sleep(_TICK_S)
    return sent


def _body(habit: Habit, chance: random.Random) -> dict[str, object]:
    at, words = chance.random(), ""
    for word, share in habit.words.items():
        if at < share:
            words = word
            break
        at -= share
    return {"model": "image-01", "prompt": f"a lighthouse {words}", "n": habit.images, "response_format": "url"}


async def _ask(session: aiohttp.ClientSession, url: str, key: str, path: str, body: dict[str, object]) -> None:
    try:
        async with session.post(f"{url}{path}", json=body, headers={"authorization": f"Bearer {key}"}) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        return  # the gateway is unavailable: the dashboard shows that too
