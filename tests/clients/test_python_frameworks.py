"""Python libraries above OpenAI's SDK."""

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from tests.clients.programs import Packages, Program

pytestmark = pytest.mark.slow

JPEG: Final = "jpeg 1024x1024"
PNG: Final = "png 1024x1024"
REFUSED: Final = {
    "wrong key": "AuthenticationError invalid_api_key",
    "moderation": "BadRequestError moderation_blocked",
}
REFUSED_OF_DALL_E: Final = REFUSED | {"moderation": "BadRequestError content_policy_violation"}


def _program(name: str, requirements: str, script: str, images: int, outcomes: Mapping[str, str]) -> Program:
    return Program(name, Packages(name, tuple(requirements.split())), f"{script}.py", outcomes, images)


PROGRAMS: Final = (
    _program(
        "langchain-community-0.4.2",
        "langchain-community==0.4.2 openai==2.54.0",
        "langchain_python",
        2,
        {"generate": JPEG, "native": JPEG} | REFUSED_OF_DALL_E,
    ),
    _program(
        "llama-index-0.7.0",
        "llama-index-tools-openai-image-generation==0.7.0 openai==3.57.0 pillow==12.0.0",
        "llama_index_tool",
        2,
        {"generate": JPEG, "download": JPEG} | REFUSED_OF_DALL_E,
    ),
    _program(
        "haystack-3.4.1",
        "haystack-ai==3.4.1",
        "haystack_generator",
        3,
        {"generate": JPEG, "dall e": JPEG, "short timeout": JPEG} | REFUSED,
    ),
    _program(
        "litellm-1.110.2",
        "litellm==1.110.2",
        "litellm_library",
        4,
        {
            "generate": JPEG,
            "dall e": JPEG,
            "png": PNG,
            "edit": JPEG,
            "wrong key": "AuthenticationError",
            "moderation": "ContentPolicyViolationError",
        },
    ),
    _program(
        "litellm-proxy-1.108.7",
        "litellm[proxy]==1.108.7",
        "litellm_proxy",
        3,
        {"generate": JPEG, "link": JPEG, "edit": JPEG, "moderation": "BadRequestError"},
    ),
    _program(
        "semantic-kernel-1.45.0",
        "semantic-kernel==1.45.0",
        "semantic_kernel_image",
        3,
        {
            "generate": JPEG,
            "native": JPEG,
            "edit": JPEG,
            "wrong key": "ServiceResponseException",
            "moderation": "ServiceResponseException",
        },
    ),
    _program(
        "pydantic-ai-2.68.0",
        "pydantic-ai-slim[openai]==2.68.0",
        "pydantic_ai_images",
        3,
        {"generate": JPEG, "png": PNG, "edit": JPEG, "wrong key": "ModelHTTPError", "moderation": "ContentFilterError"},
    ),
    _program(
        "griptape-1.13.0",
        "griptape==1.13.0 pillow==12.0.0",
        "griptape_driver",
        3,
        {"generate": JPEG, "native": JPEG, "png": PNG, "mask": "BadRequestError invalid_value"} | REFUSED,
    ),
    _program(
        "crewai-tools-1.15.30",
        "crewai-tools==1.15.30",
        "crewai_tool",
        2,
        {"generate": JPEG, "native": JPEG, "moderation": "BadRequestError content_policy_violation"},
    ),
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_library_works_unchanged(program: Program, check: Callable[[Program], None]) -> None:
    check(program)
