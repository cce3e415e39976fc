"""Performs the acts of a client program, and writes what came of each."""

import asyncio
import base64
import inspect
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

URL = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
FOLDER = Path(os.environ["FOLDER"])
PORTRAIT = FOLDER / "portrait.png"
TEXT_LENGTH = 200
"""A picture in base64 is longer."""


def perform(*acts: Callable[[], object]) -> None:
    """Each act returns pictures (bytes, base64, or links), a text, or nothing; an exception is an outcome, too."""
    with (FOLDER / "outcomes").open("w") as file:
        for act in acts:
            name = act.__name__.replace("_", " ")
            print(json.dumps([name, outcome_of(name, act)]), file=file, flush=True)


def outcome_of(name: str, act: Callable[[], object]) -> str | list[str]:
    try:
        found = act()
        if inspect.isawaitable(found):
            found = asyncio.run(waited_for(found))
    except Exception as error:  # noqa: BLE001 - whatever the package raises
        return told(error)
    if isinstance(found, str) and len(found) < TEXT_LENGTH and not found.startswith("http"):
        return found or "nothing"
    pictures = found if isinstance(found, list) else [found]
    if not all(pictures):
        return "nothing"
    paths = [f"{name}-{at}" for at, _ in enumerate(pictures)]
    for path, picture in zip(paths, pictures, strict=True):
        (FOLDER / path).write_bytes(content_of(picture))
    return paths


async def waited_for(awaitable: object) -> object:
    return await awaitable  # type: ignore[misc]


def told(error: BaseException) -> str:
    """The class of an exception, with OpenAI's code where it has one."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__} {code}" if isinstance(code, str) and not code.isdecimal() else type(error).__name__


def content_of(picture: object) -> bytes:
    if isinstance(picture, bytes):
        return picture
    assert isinstance(picture, str), f"neither bytes nor text: {picture!r:.80}"
    if picture.startswith("http"):
        with urllib.request.urlopen(picture, timeout=30) as response:
            return response.read()
    return base64.b64decode(picture.rpartition(",")[2], validate=True)
