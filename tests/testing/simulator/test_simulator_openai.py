"""The simulator's formats of OpenAI's shape, held to OpenAI's own SDK."""

import base64
from collections.abc import Iterator
from typing import Any, Final

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI

from tests.support.harness import Simulator, simulating
from tests.support.pictures import drawn

MODELS: Final = {
    "openai/v1": "gpt-image-2",
    "h3/v1": "MiniMax-H3-Image",
    "ark/api/v3": "doubao-seedream-4-0-250828",
    "zhipu/api/paas/v4": "cogview-4",
    "qianfan/v2": "qwen-image",
    "recraft/v1": "recraftv4_1",
    "302ai/v1": "gpt-image-2",
    "relay/v1": "any",
}
FORM: Final[dict[str, Any]] = {"302ai/v1": {"extra_query": {"response_format": "url"}}}
"""How the form of images is asked for, if not by `response_format`."""
SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")


@pytest.fixture(scope="module")
def twin() -> Iterator[Simulator]:
    with simulating() as running:
        yield running


def client(twin: Simulator, prefix: str, key: str = "sdk-1") -> OpenAI:
    return OpenAI(base_url=f"{twin.url}/{prefix}", api_key=key, max_retries=0)


def content(image: Any) -> bytes:
    if image.b64_json:
        return base64.b64decode(image.b64_json)
    return httpx.get(image.url, verify=False).content


@pytest.mark.parametrize("prefix", MODELS)
def test_the_sdk_reads_images_of_each_provider(twin: Simulator, prefix: str) -> None:
    with client(twin, prefix) as sdk:
        made = sdk.images.generate(model=MODELS[prefix], prompt="a fox", **FORM.get(prefix, {}))
    assert made.data
    assert made.created
    assert content(made.data[0]).startswith(SIGNATURES)


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize("prefix", ["h3/v1", "ark/api/v3", "recraft/v1", "relay/v1"])
def test_the_sdk_chooses_the_form(twin: Simulator, prefix: str, form: Any) -> None:
    with client(twin, prefix) as sdk:
        made = sdk.images.generate(model=MODELS[prefix], prompt="a fox", response_format=form)
    assert made.data
    assert getattr(made.data[0], form)


def test_the_sdk_reads_what_openai_states(twin: Simulator) -> None:
    with client(twin, "openai/v1") as sdk:
        made = sdk.images.generate(
            model="gpt-image-2", prompt="a fox", n=2, size="1024x1024", quality="low", moderation="low", user="u"
        )
    assert made.data
    assert made.usage
    assert (2, 4160, 10) == (len(made.data), made.usage.output_tokens, made.usage.input_tokens_details.text_tokens)


def test_the_sdk_edits_with_several_images_and_a_mask(twin: Simulator) -> None:
    file = ("a.png", drawn("PNG"), "image/png")
    with client(twin, "openai/v1") as sdk:
        made = sdk.images.edit(model="gpt-image-2", prompt="a hat", image=[file, file], mask=file, output_format="webp")
    assert made.data
    assert content(made.data[0]).startswith(b"RIFF")


def test_azures_client_is_content(twin: Simulator) -> None:
    with AzureOpenAI(azure_endpoint=f"{twin.url}/azure", api_key="sdk-1", api_version="2025-04-01-preview") as sdk:
        made = sdk.images.generate(model="pictures", prompt="a fox")
        listed = list(sdk.models.list())
    assert made.data
    assert (True, []) == (content(made.data[0]).startswith(b"\x89PNG"), listed)


@pytest.mark.parametrize(
    ("key", "prompt", "kind", "code"),
    [
        ("dead-1", "a fox", openai.AuthenticationError, "invalid_api_key"),
        ("broke-1", "a fox", openai.RateLimitError, "insufficient_quota"),
        ("sdk-1", "a fox [code=1002]", openai.RateLimitError, "rate_limit_exceeded"),
        ("sdk-1", "a fox [code=1026]", openai.BadRequestError, "moderation_blocked"),
        ("sdk-1", "a fox [code=1033]", openai.InternalServerError, "server_is_overloaded"),
        ("sdk-1", "", openai.BadRequestError, "invalid_value"),
    ],
)
def test_the_sdk_raises_the_error_of_a_fault(
    twin: Simulator, key: str, prompt: str, kind: type[openai.APIStatusError], code: str
) -> None:
    with client(twin, "openai/v1", key) as sdk, pytest.raises(kind) as caught:
        sdk.images.generate(model="gpt-image-2", prompt=prompt)
    assert code == caught.value.code


@pytest.mark.parametrize(
    ("prefix", "fields"),
    [
        ("openai/v1", {"response_format": "url"}),
        ("openai/v1", {"size": "1000x1000"}),
        ("openai/v1", {"n": 11}),
        ("ark/api/v3", {"n": 2}),
        ("ark/api/v3", {"size": "512x512"}),
        ("zhipu/api/paas/v4", {"response_format": "url"}),
        ("recraft/v1", {"quality": "high"}),
        ("recraft/v1", {"size": "1280x720"}),
        ("302ai/v1", {"response_format": "url"}),
    ],
)
def test_each_provider_refuses_what_it_does_not_document(twin: Simulator, prefix: str, fields: dict[str, Any]) -> None:
    with client(twin, prefix) as sdk, pytest.raises(openai.BadRequestError):
        sdk.images.generate(model=MODELS[prefix], prompt="a fox", **fields)


def test_withheld_images_are_errors_in_their_place_or_missing(twin: Simulator) -> None:
    with client(twin, "h3/v1") as sdk:
        made = sdk.images.generate(model="MiniMax-H3-Image", prompt="a fox [fail=1]", n=3)
    assert made.data
    assert [True, True, False] == [bool(image.url) for image in made.data]
    with client(twin, "openai/v1") as sdk:
        assert 2 == len(sdk.images.generate(model="gpt-image-2", prompt="a fox [fail=1]", n=3).data or [])
