"""fal.ai's wire: fields by model, results that are errors, and locks of accounts (reference/providers.md 4.2)."""

from typing import Final

import msgspec
import pytest

from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import Format, ImageJob, ImageReply, ImageUrl, ResponseFormat, Size
from gateway.domain.tasks import Task
from gateway.providers import PROVIDERS
from gateway.providers.fal import MODELS, REQUEST_ERRORS, Fal
from gateway.providers.protocol import KeyCheck
from gateway.providers.replies import UpstreamResponse
from tests.support.own_formats import EDIT, ENCODED, SECRET, STRANGE, Wire

FAL: Final = Fal()
DEV, ULTRA, RECRAFT = (
    Wire("fal", f"fal-ai/{name}") for name in ("flux/dev", "flux-pro/v1.1-ultra", "recraft/v3/text-to-image")
)
IDEOGRAM, NANO = Wire("fal", "fal-ai/ideogram/v3"), Wire("fal", "fal-ai/nano-banana-2")
URL: Final = "https://queue.fal.run/fal-ai/flux/requests/764cabcf-1"
TASK: Final = Task("fal-ai/flux/requests/764cabcf-1", URL)
LINK, OTHER = "https://v3.fal.media/files/a.png", "https://v3.fal.media/files/b.png"
BEGUN: Final = {"status": "IN_QUEUE", "request_id": "764cabcf-1", "response_url": URL, "queue_position": 0}
LOCKED: Final = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


def issue(name: str, text: str = "a text") -> dict[str, object]:
    return {"detail": [{"loc": ["body", "prompt"], "msg": text, "type": name, "url": "https://docs.fal.ai/errors"}]}


def response(status: int, body: object) -> UpstreamResponse:
    sent = DEV.request(ImageJob("https://example.com/an-elephant.png")).body
    return UpstreamResponse(status, body if isinstance(body, bytes) else msgspec.json.encode(body), sent=sent)


@pytest.mark.parametrize(
    ("wire", "job", "images", "body"),
    [
        (DEV, ImageJob("a fox"), 1, {"image_size": {"width": 1024, "height": 1024}}),
        (
            *(DEV, ImageJob("a fox", size=Size(1536, 1024), seed=7, output_format=Format.PNG), 3),
            {"image_size": {"width": 1440, "height": 960}, "num_images": 3, "seed": 7, "output_format": "png"},
        ),
        (ULTRA, ImageJob("a fox"), 1, {"aspect_ratio": "1:1"}),
        (ULTRA, ImageJob("a fox", size=Size(1792, 1024)), 2, {"aspect_ratio": "16:9", "num_images": 2}),
        (RECRAFT, ImageJob("a fox", size=Size(1536, 1024)), 1, {"image_size": {"width": 1536, "height": 1024}}),
        (IDEOGRAM, ImageJob("a fox", aspect_ratio="16:9"), 1, {"image_size": {"width": 1312, "height": 736}}),
        (NANO, ImageJob("a fox", output_format=Format.WEBP), 1, {"aspect_ratio": "1:1", "output_format": "webp"}),
    ],
)
def test_each_model_gets_its_own_fields(wire: Wire, job: ImageJob, images: int, body: dict[str, object]) -> None:
    request = wire.request(job, images)
    assert ("POST", f"/{wire.model}") == (request.method, request.path)
    assert ("Key sk-secret", "600") == tuple(
        dict(request.headers)[name] for name in ("authorization", "x-fal-request-timeout")
    )
    assert {"prompt": "a fox"} | body == wire.body(job, images)


def test_an_edit_has_a_path_of_its_own() -> None:
    assert "/fal-ai/nano-banana-2/edit" == NANO.request(EDIT).path
    link = f"data:image/png;base64,{ENCODED}"
    assert {"prompt": "in red", "aspect_ratio": "1:1", "image_urls": [link]} == NANO.body(EDIT)


def test_a_model_whose_fields_are_not_known_is_refused() -> None:
    with pytest.raises(LookupError, match="'fal-ai/other' has fields that the gateway does not know"):
        FAL.capability("fal-ai/other", {})
    assert 2 == FAL.capability("fal-ai/flux/dev", {"max_images_per_call": 2}).max_images_per_call


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, BEGUN, TASK),
        (200, BEGUN | {"response_url": None}, ErrorCode.INVALID_RESPONSE),
        (200, BEGUN | {"request_id": "other"}, ErrorCode.INVALID_RESPONSE),
        (200, BEGUN | {"response_url": f"{URL}/../x"}, ErrorCode.INVALID_RESPONSE),
        (422, issue("content_policy_violation"), ErrorCode.CONTENT_INPUT),
        (422, issue("value_error"), ErrorCode.UPSTREAM_REJECTED),
        (403, {"detail": LOCKED}, ErrorCode.INSUFFICIENT_BALANCE),
        (403, {"detail": "User is locked. Reason: TOP_UP."}, ErrorCode.INSUFFICIENT_BALANCE),
        (403, {"detail": "User is locked. Reason: Admin lock. Please contact us"}, ErrorCode.ACCOUNT_UNVERIFIED),
        (403, {"detail": f"Not allowed: {LOCKED}"}, ErrorCode.BARE_FORBIDDEN),
        (403, b'{"detail": "x", "detail": "User is locked. Reason: TOP_UP."}', ErrorCode.BARE_FORBIDDEN),
        (400, {"detail": LOCKED}, ErrorCode.UPSTREAM_REJECTED),
        (401, {"detail": "No user found for Key ID and Secret"}, ErrorCode.BARE_UNAUTHORIZED),
        (404, {"detail": "Application not found"}, ErrorCode.UPSTREAM_UNSUPPORTED),
        (429, {"detail": "x"}, ErrorCode.BARE_RATE_LIMITED),
        (504, {"detail": "x", "error_type": "request_timeout"}, ErrorCode.UPSTREAM_TIMEOUT),
        (500, issue("internal_server_error"), ErrorCode.INVALID_RESPONSE),
    ],
)
def test_a_submission_is_a_task_or_an_error(status: int, body: object, expected: object) -> None:
    found: object
    try:
        found = FAL.read_reply(response(status, body), ResponseFormat.URL)
    except GatewayError as error:
        found = error.error_code
    assert expected == found


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    with pytest.raises(GatewayError) as raised:
        FAL.read_reply(response(status, body), ResponseFormat.URL)
    assert raised.value.row.outcome is Outcome.UNKNOWN


RAISED: Final = "the task is asked for again"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"detail": "Request is still in progress"}, None),
        (202, {"status": "IN_QUEUE", "queue_position": 3}, None),
        (202, {"status": "IN_PROGRESS"}, None),
        (200, {"images": [{"url": LINK}, {"url": OTHER}]}, (LINK, OTHER)),
        (200, {"image": {"url": LINK}}, (LINK,)),
        (200, {"images": [{"url": LINK}, {"url": OTHER}], "has_nsfw_concepts": [True, False]}, (OTHER,)),
        (200, {"images": [{"url": LINK}], "has_nsfw_concepts": [True]}, ErrorCode.CONTENT_MODERATED),
        (200, {"images": [{"url": "ftp://x"}]}, ErrorCode.INVALID_RESPONSE),
        (200, {"images": []}, ErrorCode.INVALID_RESPONSE),
        (200, {"images": None}, ErrorCode.INVALID_RESPONSE),
        (422, issue("content_policy_violation"), ErrorCode.CONTENT_INPUT),
        (422, issue("image_too_small"), ErrorCode.UPSTREAM_REJECTED),
        (422, issue("no_media_generated"), ErrorCode.UPSTREAM_ERROR),
        (500, issue("internal_server_error"), ErrorCode.UPSTREAM_ERROR),
        (500, issue("news"), RAISED),
        (504, {"detail": "Request timed out", "error_type": "request_timeout"}, ErrorCode.UPSTREAM_ERROR),
        (400, {"detail": "x", "error_type": "bad_request"}, ErrorCode.UPSTREAM_REJECTED),
        (500, {"detail": "Request is still in progress"}, RAISED),
        (503, {"detail": "x", "error_type": "news"}, RAISED),
        (404, {"detail": "Request not found"}, RAISED),
        (401, {"detail": "x"}, RAISED),
        (403, {"detail": LOCKED}, RAISED),
        (200, {"status": "COMPLETED"}, RAISED),
        (200, {"status": "FAILED"}, RAISED),
        (502, b"<html>", RAISED),
        (200, b"", RAISED),
    ],
)
def test_a_result_is_read(status: int, body: object, expected: object) -> None:
    found: object
    try:
        found = FAL.read_poll(response(status, body), TASK, ResponseFormat.URL)
    except GatewayError:
        found = RAISED
    if isinstance(found, ImageReply):
        found = tuple(picture.url for picture in found.pictures if isinstance(picture, ImageUrl))
    assert expected == (found.error_code if isinstance(found, GatewayError) else found)


def test_withheld_images_and_the_size_are_read() -> None:
    body = {"images": [{"url": LINK, "width": 1024, "height": 768}, {"url": OTHER}], "has_nsfw_concepts": [False, True]}
    reply = FAL.read_poll(response(200, body), TASK, ResponseFormat.URL)
    assert isinstance(reply, ImageReply)
    assert (1, Size(1024, 768)) == (reply.failed, reply.made)


def test_a_task_is_asked_for_at_its_application() -> None:
    asked = FAL.build_poll(TASK, SECRET)
    assert ("GET", "/fal-ai/flux/requests/764cabcf-1", ()) == (asked.method, asked.path, asked.body)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"detail": "Request not found"}, 404, KeyCheck()),
        ({"detail": "No user found"}, 401, ErrorCode.KEY_INVALID),
        ({}, 401, ErrorCode.BARE_UNAUTHORIZED),
        ({}, 404, ErrorCode.UPSTREAM_UNSUPPORTED),
        ({"detail": LOCKED}, 403, ErrorCode.INSUFFICIENT_BALANCE),
        (BEGUN, 200, ErrorCode.INVALID_RESPONSE),
        ({"detail": "x"}, 500, ErrorCode.INVALID_RESPONSE),
    ],
)
def test_the_status_of_no_task_is_the_key_check(body: object, status: int, expected: object) -> None:
    found = DEV.check(body, status)
    assert expected == (found.error_code or found)


def test_every_model_makes_what_it_says() -> None:
    for model in MODELS:
        assert {"prompt": "a fox"}.items() <= Wire("fal", model).body(ImageJob("a fox")).items()
    assert PROVIDERS["fal"].result_hosts
    assert {ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_REJECTED} == set(REQUEST_ERRORS.values())
