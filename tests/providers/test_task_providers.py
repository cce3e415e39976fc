"""The wire of each provider whose calls begin tasks: what is sent, and how every kind of response is read."""

from typing import Any, Final

import msgspec
import pytest

from gateway.domain.accounts import make_secret
from gateway.domain.catalog import plan_shape
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ImageUrl,
    InputImage,
    Operation,
    ResponseFormat,
    Role,
    Size,
)
from gateway.domain.sizes import SizePolicy
from gateway.domain.tasks import Task
from gateway.providers import PROVIDERS
from gateway.providers.protocol import KeyCheck, TaskProvider
from gateway.providers.replies import UpstreamResponse

KEY: Final = make_secret("key-1")
URL: Final = "https://img.example.com/a.png?sign=x"
OTHER: Final = "https://img.example.com/b.png"
IMAGE: Final = InputImage(Role.IMAGE, b'"data:image/png;base64,iVBORw0K"', Format.PNG, 6)
LINKED: Final = InputImage(Role.IMAGE, msgspec.json.encode(URL))
TASK: Final = Task("t-1")
PAGE: Final = b"<html><h1>502 Bad Gateway</h1></html>"


def edit(*inputs: InputImage, **fields: Any) -> ImageJob:
    return ImageJob("a cat", operation=Operation.EDIT, inputs=inputs, **fields)


def found(name: str) -> TaskProvider:
    provider = PROVIDERS[name]
    assert isinstance(provider, TaskProvider)
    return provider


def response(status: int, body: object) -> UpstreamResponse:
    return UpstreamResponse(status, body if isinstance(body, bytes) else msgspec.json.encode(body))


SENT: Final[list[tuple[str, str, ImageJob, str, object]]] = [
    (
        *("302ai-tasks", "flux-2-pro", ImageJob("a cat", size=Size(1536, 1024))),
        *(
            "/302/v2/image/generate?run_async=true",
            {"model": "flux-2-pro", "prompt": "a cat", "width": 1536, "height": 1024},
        ),
    ),
    (
        *("302ai-tasks", "m", ImageJob("a cat", aspect_ratio="16:9"), "/302/v2/image/generate?run_async=true"),
        {"model": "m", "prompt": "a cat", "aspect_ratio": "16:9"},
    ),
    (
        *("302ai-tasks", "m", edit(IMAGE), "/302/v2/image/generate?run_async=true"),
        {"model": "m", "prompt": "a cat", "image": "data:image/png;base64,iVBORw0K"},
    ),
    (
        *("luma", "uni-1", ImageJob("a cat", end_user="u-1"), "/v1/generations"),
        {"model": "uni-1", "prompt": "a cat", "type": "image", "aspect_ratio": "1:1", "user_id": "u-1"},
    ),
    (
        *("luma", "uni-1-max", edit(IMAGE, LINKED, size=Size(1024, 512), output_format=Format.PNG), "/v1/generations"),
        {
            "model": "uni-1-max",
            "prompt": "a cat",
            "type": "image_edit",
            "aspect_ratio": "2:1",
            "output_format": "png",
            "source": {"media_type": "image/png", "data": "iVBORw0K"},
            "image_ref": [{"url": URL}],
        },
    ),
    (
        *("luma-photon", "photon-1", ImageJob("a cat", aspect_ratio="21:9", output_format=Format.JPEG)),
        "/dream-machine/v1/generations/image",
        {"model": "photon-1", "prompt": "a cat", "aspect_ratio": "21:9", "format": "jpg"},
    ),
    (
        *("luma-photon", "photon-1", edit(LINKED), "/dream-machine/v1/generations/image"),
        {"model": "photon-1", "prompt": "a cat", "aspect_ratio": "1:1", "modify_image_ref": {"url": URL}},
    ),
]
"""Provider, model, job, path, body."""


@pytest.mark.parametrize(("provider", "model", "job", "path", "body"), SENT)
def test_a_job_is_sent(provider: str, model: str, job: ImageJob, path: str, body: object) -> None:
    capability = found(provider).capability(model, {})
    shape = plan_shape(job, capability, SizePolicy.NEAREST)
    assert shape
    sent = found(provider).build_call(job, CallPlan(model, 1, shape, ResponseFormat.URL), KEY)
    assert ("POST", path, body) == (sent.method, sent.path, msgspec.json.decode(b"".join(sent.body)))
    assert any(value.endswith("key-1") for _, value in sent.headers)


SUBMITTED: Final[list[tuple[str, int, object, Task | ImageReply | ErrorCode]]] = [
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "pending"}, TASK),
    (
        *("302ai-tasks", 200, {"task_id": "t-1", "status": "completed", "image_urls": [URL]}),
        ImageReply((ImageUrl(URL),), "t-1"),
    ),
    ("302ai-tasks", 200, {"status": "pending"}, ErrorCode.INVALID_RESPONSE),
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "new"}, ErrorCode.INVALID_RESPONSE),
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "failed", "error": {}}, ErrorCode.UPSTREAM_ERROR),
    ("302ai-tasks", 200, {"error": {"err_code": -10002, "message": "m"}}, ErrorCode.KEY_INVALID),
    ("302ai-tasks", 500, {"error": {"err_code": -10004, "message": "m"}}, ErrorCode.INSUFFICIENT_BALANCE),
    ("302ai-tasks", 500, {"error": {"err_code": -10011, "message": "m"}}, ErrorCode.UPSTREAM_REJECTED),
    ("302ai-tasks", 401, {"error": {"message": "m"}}, ErrorCode.BARE_UNAUTHORIZED),
    ("302ai-tasks", 429, {"code": "RateLimitExceeded"}, ErrorCode.BARE_RATE_LIMITED),
    ("302ai-tasks", 502, PAGE, ErrorCode.INVALID_RESPONSE),
    ("luma", 201, {"id": "t-1", "state": "queued"}, TASK),
    ("luma", 201, {"state": "queued"}, ErrorCode.INVALID_RESPONSE),
    ("luma", 401, {"detail": "Invalid API key"}, ErrorCode.BARE_UNAUTHORIZED),
    ("luma", 402, {"detail": "Insufficient balance"}, ErrorCode.INSUFFICIENT_BALANCE),
    ("luma", 402, {"error": "Insufficient balance"}, ErrorCode.BARE_PAYMENT_REQUIRED),
    ("luma", 403, {"detail": "Account suspended"}, ErrorCode.BARE_FORBIDDEN),
    ("luma", 422, {"detail": [{"msg": "prompt: required"}]}, ErrorCode.UPSTREAM_REJECTED),
    ("luma", 429, {"detail": "Rate limit exceeded"}, ErrorCode.ACCOUNT_RATE_LIMITED),
    ("luma", 429, {"detail": "Too many concurrent jobs."}, ErrorCode.ACCOUNT_CONNECTION_LIMITED),
    ("luma", 429, {"detail": "Slow down"}, ErrorCode.BARE_RATE_LIMITED),
    ("luma", 503, {"detail": "m"}, ErrorCode.INVALID_RESPONSE),
    ("luma-photon", 201, {"id": "t-1", "state": "queued"}, TASK),
    ("luma-photon", 400, {"detail": "Prompt is too long"}, ErrorCode.UPSTREAM_REJECTED),
    ("luma-photon", 402, {"detail": "Insufficient credits"}, ErrorCode.BARE_PAYMENT_REQUIRED),
    ("luma-photon", 429, {"detail": "m"}, ErrorCode.BARE_RATE_LIMITED),
    ("luma-photon", 502, PAGE, ErrorCode.INVALID_RESPONSE),
]


@pytest.mark.parametrize(("provider", "status", "body", "expected"), SUBMITTED)
def test_a_submission_is_read(
    provider: str, status: int, body: object, expected: Task | ImageReply | ErrorCode
) -> None:
    read: object
    try:
        read = found(provider).read_reply(response(status, body), ResponseFormat.URL)
    except GatewayError as error:
        read = error.error_code
    assert expected == read


class Raised:
    """The response says nothing about the task: it is asked for again."""


def failed(error: object) -> dict[str, object]:
    return {"task_id": "t-1", "status": "failed", "error": error}


POLLED: Final[list[tuple[str, int, object, ImageReply | ErrorCode | type[Raised] | None]]] = [
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "pending"}, None),
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "processing"}, None),
    (
        *("302ai-tasks", 200, {"task_id": "t-1", "status": "completed", "image_url": URL, "image_urls": [URL, OTHER]}),
        ImageReply((ImageUrl(URL), ImageUrl(OTHER)), "t-1"),
    ),
    (
        *("302ai-tasks", 200, {"task_id": "t-1", "status": "completed", "image_url": URL}),
        ImageReply((ImageUrl(URL),), "t-1"),
    ),
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "completed", "image_urls": []}, ErrorCode.INVALID_RESPONSE),
    ("302ai-tasks", 200, failed({"message": "m", "error_type": "upstream_error"}), ErrorCode.UPSTREAM_ERROR),
    ("302ai-tasks", 200, failed({"error_type": "content_policy_violation"}), ErrorCode.CONTENT_INPUT),
    ("302ai-tasks", 200, failed({"message": "Request blocked by moderation"}), ErrorCode.CONTENT_INPUT),
    ("302ai-tasks", 200, failed("input new_sensitive"), ErrorCode.CONTENT_INPUT),
    ("302ai-tasks", 200, failed({"message": 'no image of "a moderation": x'}), ErrorCode.UPSTREAM_ERROR),
    ("302ai-tasks", 404, {"error": {"err_code": -10010, "message": "m"}}, ErrorCode.TASK_LOST),
    ("302ai-tasks", 401, {"error": {"err_code": -10002, "message": "m"}}, Raised),
    ("302ai-tasks", 200, {"task_id": "t-2", "status": "completed", "image_urls": [URL]}, Raised),
    ("302ai-tasks", 200, {"task_id": "t-1", "status": "new"}, Raised),
    ("302ai-tasks", 500, {"task_id": "t-1", "status": "failed"}, Raised),
    ("302ai-tasks", 404, {}, Raised),
    ("302ai-tasks", 502, PAGE, Raised),
    ("luma", 200, {"id": "t-1", "state": "queued"}, None),
    ("luma", 200, {"id": "t-1", "state": "processing", "output": [{"type": "image", "url": URL}]}, None),
    (
        *("luma", 200, {"id": "t-1", "state": "completed", "output": [{"type": "image", "url": URL}]}),
        ImageReply((ImageUrl(URL),), "t-1"),
    ),
    ("luma", 200, {"id": "t-1", "state": "completed", "output": [{"type": "video"}]}, ErrorCode.INVALID_RESPONSE),
    *(
        ("luma", 200, {"id": "t-1", "state": "failed", "failure_code": code}, error_code)
        for code, error_code in (
            ("content_moderated", ErrorCode.CONTENT_OUTPUT),
            ("generation_failed", ErrorCode.UPSTREAM_ERROR),
            ("budget_exhausted", ErrorCode.UPSTREAM_ERROR),
            ("corrupt_input", ErrorCode.UPSTREAM_REJECTED),
            ("new", ErrorCode.UPSTREAM_ERROR),
        )
    ),
    ("luma", 404, {"detail": "Generation not found"}, ErrorCode.TASK_LOST),
    ("luma", 404, PAGE, Raised),
    ("luma", 401, {"detail": "Invalid API key"}, Raised),
    ("luma", 429, {"detail": "Rate limit exceeded"}, Raised),
    ("luma", 200, {"id": "t-1", "state": "paused"}, Raised),
    ("luma", 200, {"id": "t-2", "state": "completed"}, Raised),
    ("luma-photon", 200, {"id": "t-1", "state": "dreaming"}, None),
    (
        *("luma-photon", 200, {"id": "t-1", "state": "completed", "assets": {"image": URL}}),
        ImageReply((ImageUrl(URL),), "t-1"),
    ),
    ("luma-photon", 200, {"id": "t-1", "state": "completed", "assets": None}, ErrorCode.INVALID_RESPONSE),
    (
        *("luma-photon", 200, {"id": "t-1", "state": "failed", "failure_reason": "Failed content moderation"}),
        ErrorCode.CONTENT_INPUT,
    ),
    ("luma-photon", 200, {"id": "t-1", "state": "failed", "failure_reason": "m"}, ErrorCode.UPSTREAM_ERROR),
    ("luma-photon", 200, {"id": "t-1", "state": "failed", "failure_reason": None}, ErrorCode.UPSTREAM_ERROR),
    ("luma-photon", 404, {"detail": "m"}, ErrorCode.TASK_LOST),
    ("luma-photon", 200, {"id": "t-1", "state": "paused"}, Raised),
    ("luma-photon", 502, PAGE, Raised),
]


@pytest.mark.parametrize(("provider", "status", "body", "expected"), POLLED)
def test_a_state_is_read(
    provider: str, status: int, body: object, expected: ImageReply | ErrorCode | type[Raised] | None
) -> None:
    read: object
    try:
        read = found(provider).read_poll(response(status, body), TASK, ResponseFormat.URL)
    except GatewayError:
        read = Raised
    assert expected == (read.error_code if isinstance(read, GatewayError) else read)


POLLS: Final = [
    ("302ai-tasks", "/302/v2/image/fetch/a%2F..%3Fb"),
    ("luma", "/v1/generations/a%2F..%3Fb"),
    ("luma-photon", "/dream-machine/v1/generations/a%2F..%3Fb"),
]


@pytest.mark.parametrize(("provider", "path"), POLLS)
def test_a_task_s_name_stays_in_its_place_of_the_path(provider: str, path: str) -> None:
    asked = found(provider).build_poll(Task("a/..?b"), KEY)
    assert ("GET", path) == (asked.method, asked.path)


CHECKED: Final[list[tuple[str, int, object, KeyCheck | ErrorCode]]] = [
    ("302ai-tasks", 200, {"object": "list", "data": []}, KeyCheck()),
    ("302ai-tasks", 401, {"error": {"err_code": -10002, "message": "m"}}, ErrorCode.KEY_INVALID),
    ("302ai-tasks", 200, {}, ErrorCode.INVALID_RESPONSE),
    ("luma", 200, {"files": []}, KeyCheck()),
    ("luma", 401, {"detail": "Invalid API key"}, ErrorCode.KEY_INVALID),
    ("luma", 401, {"message": "m"}, ErrorCode.BARE_UNAUTHORIZED),
    ("luma-photon", 200, {"credit_balance": 12.5}, KeyCheck(proves_balance=True)),
    ("luma-photon", 200, {"credit_balance": 0}, ErrorCode.INSUFFICIENT_BALANCE),
    ("luma-photon", 200, {}, ErrorCode.INVALID_RESPONSE),
    ("luma-photon", 401, {"detail": "m"}, ErrorCode.KEY_INVALID),
]


@pytest.mark.parametrize(("provider", "status", "body", "expected"), CHECKED)
def test_a_key_is_checked_for_free(provider: str, status: int, body: object, expected: KeyCheck | ErrorCode) -> None:
    assert "GET" == found(provider).build_key_check(KEY).method
    read: object
    try:
        read = found(provider).read_key_check(response(status, body))
    except GatewayError as error:
        read = error.error_code
    assert expected == (read.error_code or read if isinstance(read, KeyCheck) else read)
