"""JavaScript libraries above OpenAI's format."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.clients.programs import Packages, Program

pytestmark = pytest.mark.slow

JPEG: Final = "jpeg 1024x1024"
VERSIONS: Final = {
    5: ("5.0.277", "2.0.131", "1.0.61"),
    6: ("6.0.326", "3.0.141", "2.0.92"),
    7: ("7.0.173", "4.0.118", "3.0.92"),
}
"""Of the AI SDK: the package `ai`, `@ai-sdk/openai` and `@ai-sdk/openai-compatible`."""


def _ai_sdk(major: int) -> Program:
    names = (f"ai-{major}", f"ai-{major}-openai", f"ai-{major}-openai-compatible")
    sources = ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible")
    wanted = zip(names, sources, VERSIONS[major], strict=True)
    packages = Packages(
        f"ai-sdk-{VERSIONS[major][0]}", tuple(f"{name}@npm:{source}@{version}" for name, source, version in wanted), 20
    )
    outcomes = {
        "generate": JPEG,
        "native": "jpeg 1280x720",
        "two": f"{JPEG}, {JPEG}",
        "png": "png 1024x1024",
        "compatible": JPEG,
        "compatible dall-e": JPEG,
        "wrong key": "APICallError",
        "moderation": "APICallError",
        "cut": "RetryError",
    }
    edits = {"edit": JPEG, "compatible edit": JPEG} if major > 5 else {}
    return Program(
        f"ai-sdk-{major}", packages, "ai_sdk.mjs", outcomes | edits, images=8 + len(edits), arguments=(str(major),)
    )


_LANGCHAIN: Final = Program(
    "langchain-js",
    Packages("langchain-js-1.6.0", ("@langchain/openai@1.6.0", "@langchain/core@1.4.0"), 20),
    "langchain_js.mjs",
    {
        "generate": JPEG,
        "native": JPEG,
        "wrong key": "AuthenticationError invalid_api_key",
        "moderation": "BadRequestError content_policy_violation",
    },
    images=2,
)
PROGRAMS: Final = (*map(_ai_sdk, VERSIONS), _LANGCHAIN)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_library_works_unchanged(program: Program, check: Callable[[Program], None]) -> None:
    check(program)
