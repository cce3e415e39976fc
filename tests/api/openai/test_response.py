"""Answers in OpenAI's format: what the SDK makes of them, and that no picture is copied."""

from collections.abc import Callable

import httpx2
import msgspec
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImagesResponse

from gateway.api.openai_responses import (
    KEEP_ALIVE,
    render_error,
    render_error_event,
    render_events,
    render_generation,
    render_model,
    render_models,
)
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, Picture, Size, TokenUsage

JPEG = Base64Image(memoryview(b"/9j/4AAQSkZJRg=="))
PNG = Base64Image(memoryview(b"iVBORw0KGgo="))
WEBP = Base64Image(memoryview(b"UklGRhAAAABXRUJQ"))
LINK = ImageUrl('https://x.org/a%2Fb?c="d"')
USAGE = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
ALL = pytest.mark.parametrize("error_code", list(ErrorCode), ids=lambda error_code: error_code.value)
CONTENT = [ErrorCode.CONTENT_INPUT, ErrorCode.CONTENT_OUTPUT, ErrorCode.CONTENT_MODERATED]


def result(*pictures: Picture, count: int | None = None) -> ImageResult:
    return ImageResult(pictures, Size(1280, 720), len(pictures) if count is None else count)


def client(body: bytes, content_type: str, status: int = 200) -> openai.OpenAI:
    """The official SDK in front of one canned answer."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": content_type})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="sk-test", base_url="http://test/v1", http_client=http, max_retries=0)


def streamed(body: bytes) -> list[object]:
    with client(body, "text/event-stream") as sdk:
        stream = sdk.images.generate(prompt="a fox", model="gpt-image-1", stream=True)
        return list(stream)


def events(*pictures: Picture) -> bytes:
    return b"".join(b"".join(event) for event in render_events(result(*pictures), 1_763_900_000))


def all_events(made: ImageResult, created: int) -> list[bytes | memoryview]:
    return [chunk for event in render_events(made, created) for chunk in event]


def error_of(
    error_code: ErrorCode, model_name: str = "", *, detail: str = "", param: str | None = None
) -> dict[str, object]:
    body = msgspec.json.decode(render_error(GatewayError(error_code, detail, param=param), model_name))
    assert set(body) == {"error"}
    error: dict[str, object] = body["error"]
    return error


@pytest.mark.parametrize(
    ("pictures", "data", "output_format"),
    [
        ((JPEG,), [{"b64_json": "/9j/4AAQSkZJRg=="}], "jpeg"),
        ((PNG, PNG), [{"b64_json": "iVBORw0KGgo="}] * 2, "png"),
        ((WEBP,), [{"b64_json": "UklGRhAAAABXRUJQ"}], "webp"),
        ((LINK,), [{"url": LINK.url}], "jpeg"),
        ((LINK, JPEG), [{"url": LINK.url}, {"b64_json": "/9j/4AAQSkZJRg=="}], "jpeg"),
    ],
)
def test_answer_has_every_key_that_clients_need(
    pictures: tuple[Picture, ...], data: list[object], output_format: str
) -> None:
    assert {
        "created": 1_763_900_000,
        "data": data,
        "background": "opaque",
        "output_format": output_format,
        "size": "1280x720",
        "usage": USAGE | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}},
    } == msgspec.json.decode(b"".join(render_generation(result(*pictures), 1_763_900_000)))


@pytest.mark.parametrize(
    ("usage", "details"),
    [
        (TokenUsage(30, 1056), {"text_tokens": 30, "image_tokens": 0}),
        (TokenUsage(30, 1056, 10, 20), {"text_tokens": 10, "image_tokens": 20}),
        (TokenUsage(30, 1056, 10, 20, 5), {"text_tokens": 10, "image_tokens": 20, "cached_tokens": 5}),
    ],
)
def test_tokens_that_the_provider_reports_are_told_once(usage: TokenUsage, details: dict[str, int]) -> None:
    made = ImageResult((JPEG, PNG), Size(1280, 720), 2, usage=usage)
    told = {"total_tokens": 1086, "input_tokens": 30, "output_tokens": 1056, "input_tokens_details": details}
    body = b"".join(render_generation(made, 1_763_900_000))
    tail = {"output_tokens_details": {"image_tokens": 1056, "text_tokens": 0}}
    assert told | tail == msgspec.json.decode(body)["usage"]
    stream = [b"".join(event).partition(b"data: ")[2] for event in render_events(made, 1_763_900_000)]
    assert [USAGE, told] == [msgspec.json.decode(event)["usage"] for event in stream]
    with client(body, "application/json") as sdk:
        read = sdk.images.generate(prompt="a fox", model="gpt-image-1")
    assert read.usage is not None
    assert (1086, 30) == (read.usage.total_tokens, read.usage.input_tokens)


def test_sdk_reads_the_answer_as_its_own_type() -> None:
    body = b"".join(render_generation(result(JPEG, JPEG), 1_763_900_000))
    with client(body, "application/json") as sdk:
        read = sdk.images.generate(prompt="a fox", model="gpt-image-1")
    assert read == ImagesResponse.model_validate_json(body, strict=True)
    assert read.usage is not None
    assert (2, "1280x720", 0, 0) == (
        len(read.data or []),
        read.size,
        read.usage.total_tokens,
        read.usage.input_tokens_details.text_tokens,
    )


@pytest.mark.parametrize("render", [render_generation, all_events])
def test_pictures_are_the_received_slices_and_no_copies(
    render: Callable[[ImageResult, int], list[bytes | memoryview]],
) -> None:
    received = b'{"data":["/9j/' + b"A" * 1_000_000 + b'","/9j/' + b"B" * 1_000_000 + b'"]}'
    whole = memoryview(received)
    slices = [whole[10:1_000_014], whole[1_000_017:2_000_021]]
    chunks = render(result(*(Base64Image(piece) for piece in slices)), 1)
    views = [chunk for chunk in chunks if isinstance(chunk, memoryview)]
    assert [id(piece) for piece in slices] == [id(view) for view in views]
    assert all(view.obj is received for view in views)
    assert sum(len(chunk) for chunk in chunks if isinstance(chunk, bytes)) < 2_000


@pytest.mark.parametrize("count", [1, 3])
def test_sdk_reads_one_completed_event_a_picture(count: int) -> None:
    read = streamed(KEEP_ALIVE + events(*[JPEG] * count) + KEEP_ALIVE)
    expected = {
        "type": "image_generation.completed",
        "b64_json": "/9j/4AAQSkZJRg==",
        "created_at": 1_763_900_000,
        "size": "1280x720",
        "quality": "auto",
        "background": "opaque",
        "output_format": "jpeg",
        "usage": USAGE,
    }
    assert [ImageGenCompletedEvent.model_validate(expected, strict=True)] * count == read


def test_events_have_the_documented_lines_and_no_other() -> None:
    (event,) = render_events(result(JPEG), 1)
    lines = b"".join(event).split(b"\n")
    assert [b"event: image_generation.completed", b"", b""] == [lines[0], *lines[2:]]
    assert lines[1].startswith(b'data: {"type":"image_generation.completed","b64_json":"')


def test_keep_alive_is_a_comment() -> None:
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
    assert streamed(KEEP_ALIVE * 3) == []


@pytest.mark.parametrize("error_code", [ErrorCode.CONTENT_INPUT, ErrorCode.READ_TIMEOUT, ErrorCode.NO_CAPACITY])
def test_sdk_raises_on_an_error_event(error_code: ErrorCode) -> None:
    with pytest.raises(openai.APIError) as failed:
        streamed(KEEP_ALIVE + render_error_event(GatewayError(error_code), "dall-e-3"))
    row = ERROR_SPECS[error_code]
    assert (row.code, row.type, row.message) == (failed.value.code, failed.value.type, failed.value.message)


@ALL
@pytest.mark.parametrize("model_name", ["", "dall-e-3", "gpt-image-1"])
def test_every_fault_renders_with_all_four_keys(error_code: ErrorCode, model_name: str) -> None:
    error = error_of(error_code, model_name)
    assert set(error) - {"moderation_details"} == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    event = render_error_event(GatewayError(error_code), model_name)
    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 3
    assert {"type": "error", "error": error} == msgspec.json.decode(event.split(b"data: ")[1])


@ALL
def test_no_upstream_text_reaches_the_client(error_code: ErrorCode) -> None:
    error = error_of(error_code, detail="sk-planted https://upstream.example")
    assert ("planted" in str(error)) == ERROR_SPECS[error_code].shows_detail


@ALL
def test_sdk_raises_the_class_of_the_status(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    classes: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        502: openai.InternalServerError,
        503: openai.InternalServerError,
        504: openai.InternalServerError,
    }
    error = GatewayError(error_code, param="p")
    with (
        client(render_error(error, "dall-e-3"), "application/json", row.status) as sdk,
        pytest.raises(classes.get(row.status, openai.APIStatusError)) as failed,
    ):
        sdk.images.generate(prompt="a fox")
    assert (row.code, "p", row.type) == (failed.value.code, failed.value.param, failed.value.type)


@pytest.mark.parametrize("error_code", CONTENT)
@pytest.mark.parametrize("model_name", ["dall-e-2", "dall-e-3"])
def test_dall_e_names_know_content_policy_violation(error_code: ErrorCode, model_name: str) -> None:
    error = error_of(error_code, model_name)
    assert ("invalid_request_error", "content_policy_violation") == (error["type"], error["code"])
    assert "moderation_details" not in error


@pytest.mark.parametrize("model_name", ["gpt-image-1", "image-01", ""])
@pytest.mark.parametrize(
    ("error_code", "stage"),
    [(ErrorCode.CONTENT_INPUT, "input"), (ErrorCode.CONTENT_OUTPUT, "output"), (ErrorCode.CONTENT_MODERATED, "output")],
)
def test_other_names_know_moderation_blocked_with_its_details(
    error_code: ErrorCode, stage: str, model_name: str
) -> None:
    error = error_of(error_code, model_name)
    assert ("image_generation_user_error", "moderation_blocked") == (error["type"], error["code"])
    assert {"moderation_stage": stage, "categories": []} == error["moderation_details"]


def test_param_of_the_error_is_shown() -> None:
    assert error_of(ErrorCode.INVALID_VALUE, detail="why", param="size") == {
        "message": "why",
        "type": "invalid_request_error",
        "param": "size",
        "code": "invalid_value",
    }


def test_sdk_lists_and_retrieves_models() -> None:
    names = ["image-01", "dall-e-3", 'odd"/name']
    with client(render_models([(name, "ark") for name in names]), "application/json") as sdk:
        listed = list(sdk.models.list())
    assert names == [model.id for model in listed]
    for name, model in zip(names, listed, strict=True):
        with client(render_model(name, "ark"), "application/json") as sdk:
            assert model == sdk.models.retrieve(name)
        assert ("model", "ark", int) == (model.object, model.owned_by, type(model.created))


def test_empty_list_of_models_is_a_list() -> None:
    assert {"object": "list", "data": []} == msgspec.json.decode(render_models([]))
