"""OpenAI's own SDKs, from the oldest in use to the newest."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.clients.programs import Packages, Program

pytestmark = pytest.mark.slow

JPEG: Final = "jpeg 1024x1024"
PNG: Final = "png 1024x1024"
WEBP: Final = "webp 1024x1024"
PYTHON_VERSIONS: Final = ("1.109.1", "2.54.0", "3.57.0")
NODE_VERSIONS: Final = ("4.104.0", "5.23.2", "6.49.0", "7.59.0")


_SDK: Final = {
    "generate": JPEG,
    "link": JPEG,
    "png": PNG,
    "webp": WEBP,
    "stream": JPEG,
    "edit": JPEG,
    "edit of a list": JPEG,
    "models": "dall-e-2, dall-e-3",
    "wrong key": "AuthenticationError invalid_api_key",
    "moderation": "BadRequestError moderation_blocked",
    "short timeout": JPEG,
}
"""Outcomes in Python and in Node."""


def _python(version: str) -> Program:
    outcomes = _SDK | {"two": f"{JPEG}, {JPEG}", "unknown model": "BadRequestError model_not_found"}
    packages = Packages(f"openai-python-{version}", (f"openai=={version}",))
    return Program(packages.name, packages, "openai_python.py", outcomes, images=10)


_OLDEST: Final = Program(
    "openai-python-0.28.1",
    Packages("openai-python-0.28.1", ("openai==0.28.1",)),
    "openai_0_28.py",
    {
        "generate": JPEG,
        "edit": JPEG,
        "mask": "InvalidRequestError invalid_value",
        "wrong key": "AuthenticationError",
        "moderation": "InvalidRequestError moderation_blocked",
    },
    images=2,
)
_NODE: Final = Packages("openai-node", tuple(f"openai-{text}@npm:openai@{text}" for text in NODE_VERSIONS), node=20)


def _node(version: str) -> Program:
    outcomes = _SDK | {"request id": "req_"}
    if version.startswith("4."):
        outcomes["stream"] = "nothing"  # it gives the events as one text
    return Program(f"openai-node-{version}", _NODE, "openai_node.mjs", outcomes, 8, (f"openai-{version}",))


PROGRAMS: Final = (_OLDEST, *map(_python, PYTHON_VERSIONS), *map(_node, NODE_VERSIONS))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_an_sdk_works_unchanged(program: Program, check: Callable[[Program], None]) -> None:
    check(program)
