"""The official Python SDK against the whole program, as its users write it."""

import base64
import io
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.images_response import ImagesResponse
from PIL import Image

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0) as client:
        yield client


def picture(encoded: str | None) -> Image.Image:
    assert encoded is not None
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


@pytest.mark.parametrize("model", ["image-01", "gpt-image-1"])
def test_base64_opens(client: OpenAI, model: str) -> None:
    answer = client.images.generate(model=model, prompt="a lighthouse")

    assert answer.data is not None
    assert ("JPEG", (1024, 1024)) == (picture(answer.data[0].b64_json).format, picture(answer.data[0].b64_json).size)
    assert ("1024x1024", "jpeg") == (answer.size, answer.output_format)
    assert (model == "gpt-image-1") == (answer.data[0].url is None)


def test_a_dall_e_name_gives_a_link_that_opens(client: OpenAI) -> None:
    answer = client.images.generate(model="dall-e-3", prompt="a lighthouse", size="1792x1024")

    assert answer.data is not None
    fetched = httpx.get(str(answer.data[0].url))
    assert "image/jpeg" == fetched.headers["content-type"]
    assert (1792, 1024) == Image.open(io.BytesIO(fetched.content)).size


@pytest.mark.parametrize(("asked", "is_link"), [("url", True), ("b64_json", False)])
def test_the_response_format_is_the_one_asked_for(client: OpenAI, asked: str, is_link: bool) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="a cat", extra_body={"response_format": asked})

    assert answer.data is not None
    assert is_link == (answer.data[0].url is not None)


def test_ten_images_are_made_in_two_calls(client: OpenAI, simulator: Simulator) -> None:
    answer = client.images.generate(model="image-01", prompt="cats", n=10)

    assert answer.data is not None
    assert 10 == len(answer.data)
    assert 10 == simulator.images_billed()
    assert [1, 9] == sorted(request["body"].get("n", 1) for request in simulator.requests())


def test_usage_has_all_its_keys(client: OpenAI) -> None:
    answer = client.images.generate(prompt="a cat")

    assert answer.usage is not None
    assert (0, 0, 0) == (answer.usage.total_tokens, answer.usage.input_tokens, answer.usage.output_tokens)
    assert 0 == answer.usage.input_tokens_details.text_tokens


@pytest.mark.parametrize(
    ("size", "made"),
    [("auto", (1024, 1024)), ("512x512", (512, 512)), ("1536x1024", (1536, 1024)), ("256x256", (512, 512))],
)
def test_the_answer_tells_the_size_really_made(client: OpenAI, size: str, made: tuple[int, int]) -> None:
    answer = client.images.generate(prompt="a cat", extra_body={"size": size})

    assert answer.data is not None
    assert made == picture(answer.data[0].b64_json).size
    assert f"{made[0]}x{made[1]}" == answer.size


def test_explicit_nulls_are_as_good_as_absent(client: OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", model=None, n=None, size=None, quality=None, response_format=None)

    assert answer.data is not None
    assert 1 == len(answer.data)


def test_what_is_ignored_is_named_and_request_ids_are_told(client: OpenAI) -> None:
    raw = client.images.with_raw_response.generate(prompt="a cat", quality="high", user="u-1", moderation="low")

    assert {"quality", "moderation"} == set(raw.headers["x-imagegate-ignored"].split(", "))
    answer: ImagesResponse = raw.parse()
    assert raw.headers["x-request-id"] == answer._request_id
    assert raw.headers["openai-processing-ms"].isdecimal()


def test_minimax_fields_pass_through_extra_body(client: OpenAI, simulator: Simulator) -> None:
    client.images.generate(prompt="a cat", extra_body={"aspect_ratio": "21:9", "seed": 7, "prompt_optimizer": True})

    expected = {"aspect_ratio": "21:9", "seed": 7, "prompt_optimizer": True}
    assert expected == {name: simulator.requests()[-1]["body"][name] for name in expected}


def test_a_stream_gives_one_completed_event_an_image(client: OpenAI) -> None:
    events = list(client.images.generate(model="gpt-image-1", prompt="cats", n=2, stream=True))

    assert ["image_generation.completed"] * 2 == [event.type for event in events]
    assert [(1024, 1024)] * 2 == [picture(event.b64_json).size for event in events]


def test_models_are_listed_and_each_is_found(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert ["image-01", "dall-e-2", "dall-e-3", "gpt-image-1"] == names
    assert names == [client.models.retrieve(name).id for name in names]


@pytest.mark.anyio
async def test_the_async_client_generates_streams_and_fails_alike(gateway: Gateway) -> None:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0) as client:
        answer = await client.images.generate(prompt="a cat", n=2)
        stream = await client.images.generate(prompt="a cat", stream=True)
        events = [event.type async for event in stream]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(prompt="[code=1026]")

    assert answer.data is not None
    assert 2 == len(answer.data)
    assert ["image_generation.completed"] == events
    assert "moderation_blocked" == caught.value.code


ASYNC_FAULTS = [
    ("[code=1026]", openai.BadRequestError),
    ("[code=1002]", openai.RateLimitError),
    ("[code=1024]", openai.InternalServerError),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("prompt", "kind"), ASYNC_FAULTS)
async def test_the_async_client_meets_the_same_exceptions(
    gateway: Gateway, prompt: str, kind: type[openai.APIStatusError]
) -> None:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0) as client:
        with pytest.raises(kind):
            await client.images.generate(prompt=prompt)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nothing")
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="sk-wrong").models.list()


@pytest.mark.anyio
async def test_the_async_client_gets_ten_and_links(gateway: Gateway) -> None:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.api_key) as client:
        ten = await client.images.generate(prompt="cats", n=10)
        link = await client.images.generate(model="dall-e-3", prompt="a cat")

    assert ten.data is not None
    assert link.data is not None
    assert (10, True) == (len(ten.data), str(link.data[0].url).startswith("http"))


FAULTS = [
    ("[code=1026]", openai.BadRequestError, "moderation_blocked", "prompt"),
    ("[code=1027]", openai.BadRequestError, "moderation_blocked", "prompt"),
    ("[fail=1]", openai.BadRequestError, "moderation_blocked", "prompt"),
    ("[code=1042]", openai.BadRequestError, "invalid_prompt", "prompt"),
    ("[code=2013]", openai.BadRequestError, "invalid_value", None),
    ("[code=1002]", openai.RateLimitError, "rate_limit_exceeded", None),
    ("[code=1039]", openai.RateLimitError, "rate_limit_exceeded", None),
    ("[code=1000]", openai.InternalServerError, "upstream_error", None),
    ("[code=1001]", openai.InternalServerError, "upstream_timeout", None),
    ("[code=1024]", openai.InternalServerError, "upstream_error", None),
    ("[code=9999]", openai.InternalServerError, "upstream_error", None),
    ("[code=1004]", openai.InternalServerError, "upstream_unavailable", None),
    ("[code=1008]", openai.InternalServerError, "upstream_unavailable", None),
    ("[code=2049]", openai.InternalServerError, "upstream_unavailable", None),
    ("[code=2056]", openai.InternalServerError, "upstream_unavailable", None),
    ("[http=401]", openai.InternalServerError, "upstream_unavailable", None),
    ("[http=402]", openai.InternalServerError, "upstream_unavailable", None),
    ("[http=403]", openai.InternalServerError, "upstream_unavailable", None),
    ("[http=429]", openai.RateLimitError, "rate_limit_exceeded", None),
    ("[http=502]", openai.InternalServerError, "upstream_error", None),
    ("[http=504]", openai.InternalServerError, "upstream_timeout", None),
    ("[cut]", openai.InternalServerError, "upstream_error", None),
    ("[garbage]", openai.InternalServerError, "upstream_error", None),
    ("[empty]", openai.InternalServerError, "upstream_error", None),
]


@pytest.mark.parametrize(("prompt", "kind", "code", "param"), FAULTS)
def test_each_upstream_fault_is_the_exception_that_users_handle(
    client: OpenAI, prompt: str, kind: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    with pytest.raises(kind) as caught:
        client.images.generate(model="gpt-image-1", prompt=prompt)

    assert (code, param) == (caught.value.code, caught.value.param)
    assert caught.value.request_id is not None
    assert {"message", "type", "param", "code"} <= set(_body(caught.value))


def test_a_safety_block_tells_details_to_gpt_image_and_policy_to_dall_e(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as gpt_image:
        client.images.generate(model="gpt-image-1", prompt="[code=1026]")
    with pytest.raises(openai.BadRequestError) as dall_e:
        client.images.generate(model="dall-e-3", prompt="[code=1026]")

    assert {"moderation_stage": "input", "categories": []} == _body(gpt_image.value)["moderation_details"]
    assert ("content_policy_violation", "invalid_request_error") == (dall_e.value.code, dall_e.value.type)


def test_a_stream_that_fails_before_its_first_byte_is_an_ordinary_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt="[code=1026]", stream=True)


def test_a_stream_that_fails_later_raises_with_its_code(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"sse_keepalive_s": 0.05})
    client = OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0)

    with client, pytest.raises(openai.APIError) as caught:
        list(client.images.generate(prompt="[delay=0.4] [code=1026]", stream=True))

    assert "moderation_blocked" == caught.value.code
    assert not isinstance(caught.value, openai.APIStatusError)


def test_bad_requests_name_their_parameter(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a cat", n=11)

    assert ("integer_above_max_value", "n") == (caught.value.code, caught.value.param)


def test_unknown_things_are_not_found(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as model:
        client.models.retrieve("nothing/of that name")
    with (
        pytest.raises(openai.BadRequestError) as asked,
        OpenAI(base_url=gateway.base_url, api_key=gateway.api_key) as it,
    ):
        it.images.generate(model="nothing", prompt="a cat")
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(openai.NotFoundError):
        client.images.create_variation(image=b"x")

    assert "model_not_found" == model.value.code
    assert ("model_not_found", "model") == (asked.value.code, asked.value.param)


@pytest.mark.parametrize("key", ["sk-ig-" + "x" * 42, "sk-wrong", "x"])
def test_a_wrong_key_is_an_authentication_error(gateway: Gateway, key: str) -> None:
    with OpenAI(base_url=gateway.base_url, api_key=key) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.images.generate(prompt="a cat")

    assert ("invalid_api_key", "invalid_request_error") == (caught.value.code, caught.value.type)
    assert key not in str(caught.value) or len(key) == 1


def test_an_unknown_outcome_is_bought_once_whatever_the_client_would_retry(
    gateway: Gateway, simulator: Simulator
) -> None:
    with (
        OpenAI(base_url=gateway.base_url, api_key=gateway.api_key) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.images.generate(prompt="[cut]")

    assert 1 == len(simulator.requests())
    assert 1 == simulator.images_billed()


def test_a_rate_limit_is_retried_by_the_client_as_told(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "main:main-1") | {"max_wait_s": 0})
    with OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as first:
            client.images.generate(prompt="[code=1002]")
        with pytest.raises(openai.RateLimitError) as second:
            client.images.generate(prompt="a cat")

    assert "15" == first.value.response.headers["retry-after"]
    assert 1 <= int(second.value.response.headers["retry-after"]) <= 15
    assert 1 == len(simulator.requests())


def _body(error: openai.APIError) -> dict[str, object]:
    assert isinstance(error.body, dict)
    return error.body


@pytest.mark.parametrize("model", ["image-01", "dall-e-3"])
def test_the_azure_client_makes_an_image_by_its_endpoint(gateway: Gateway, model: str) -> None:
    with AzureOpenAI(azure_endpoint=gateway.url, api_key=gateway.api_key, api_version="2025-04-01-preview") as client:
        made = client.images.generate(model=model, prompt="a lighthouse", response_format="b64_json")
        named = [found.id for found in client.models.list()]
    assert made.data
    assert "JPEG" == picture(made.data[0].b64_json).format
    assert model in named


@pytest.mark.parametrize("path", ["/v1", "/openai/v1", "/openai", "/v1/"])
def test_the_azure_client_makes_an_image_by_a_base_url(gateway: Gateway, path: str) -> None:
    base_url, key = gateway.url + path, gateway.api_key
    with AzureOpenAI(base_url=base_url, api_key=key, api_version="2024-10-21") as client:
        made = client.images.generate(model="dall-e-3", prompt="a lighthouse")
    assert made.data
    assert made.data[0].url


def test_the_azure_client_makes_an_image_by_its_deployment(gateway: Gateway) -> None:
    with AzureOpenAI(
        azure_endpoint=gateway.url, azure_deployment="dall-e-3", api_key=gateway.api_key, api_version="2024-10-21"
    ) as client:
        made = client.images.with_raw_response.generate(prompt="a lighthouse", model="ignored")
    assert "model" == made.headers["x-imagegate-ignored"]
    assert made.parse().data


def test_the_azure_client_reads_a_wrong_key_as_one(gateway: Gateway) -> None:
    client = AzureOpenAI(azure_endpoint=gateway.url, api_key="sk-wrong", api_version="2024-10-21")
    with client, pytest.raises(openai.AuthenticationError):
        client.images.generate(model="dall-e-3", prompt="a lighthouse")
