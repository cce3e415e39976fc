"""Ideogram's wire: sizes as resolutions, flags of single images, and statuses (reference/providers.md section 6)."""

import pytest

from gateway.domain.errors import ErrorCode, Outcome
from gateway.domain.images import ImageJob, Size
from gateway.providers import PROVIDERS
from gateway.providers.forms import form_texts
from gateway.providers.ideogram import STATUSES
from gateway.providers.protocol import KeyCheck
from tests.support.own_formats import EDIT, PNG, SECRET, STRANGE, Wire

V3 = Wire("ideogram", "ideogram-v3-turbo")
V4 = Wire("ideogram", "ideogram-v4-quality")
LINK = "https://ideogram.ai/api/images/ephemeral/a.png?exp=1&sig=2"
ITEM = {"url": LINK, "prompt": "a fox", "resolution": "1280x800", "is_image_safe": True, "seed": 1}
UNSAFE = ITEM | {"url": None, "is_image_safe": False}


def made(*items: object) -> dict[str, object]:
    return {"created": "2026-11-28T12:00:00+00:00", "data": items}


def problem(status: int, **more: object) -> dict[str, object]:
    return {"type": "https://ideogram.ai/problems/x", "title": "A title", "detail": "a text", "status": status} | more


@pytest.mark.parametrize(
    ("wire", "job", "images", "path", "body"),
    [
        (V3, ImageJob("a fox"), 1, "v3", {"prompt": "a fox", "rendering_speed": "TURBO"}),
        (V3, ImageJob("a fox", seed=0), 8, "v3",
         {"prompt": "a fox", "rendering_speed": "TURBO", "num_images": 8, "seed": 0}),
        (V3, ImageJob("a fox", size=Size(1536, 1024)), 1, "v3",
         {"prompt": "a fox", "rendering_speed": "TURBO", "resolution": "1248x832"}),
        (V3, ImageJob("a fox", size=Size(1344, 704)), 1, "v3",
         {"prompt": "a fox", "rendering_speed": "TURBO", "resolution": "1344x704"}),
        (V3, ImageJob("a fox", aspect_ratio="16:10"), 1, "v3",
         {"prompt": "a fox", "rendering_speed": "TURBO", "resolution": "1280x800"}),
        (V4, ImageJob("a fox"), 1, "v4", {"text_prompt": "a fox", "rendering_speed": "QUALITY"}),
        (V4, ImageJob("a fox", size=Size(1024, 1536)), 1, "v4",
         {"text_prompt": "a fox", "rendering_speed": "QUALITY", "resolution": "1664x2496"}),
    ],
)  # fmt: skip
def test_a_generation_has_the_fields_of_its_version(
    wire: Wire, job: ImageJob, images: int, path: str, body: dict[str, object]
) -> None:
    request = wire.request(job, images)
    assert ("POST", f"/v1/ideogram-{path}/generate") == (request.method, request.path)
    assert "sk-secret" == dict(request.headers)["api-key"]
    assert body == wire.body(job, images)


def test_an_edit_is_a_remix_of_one_image() -> None:
    request = V3.request(EDIT, 2)
    assert "/v1/ideogram-v3/remix" == request.path
    assert ["in red", "TURBO", "2"] == list(form_texts(b"".join(request.body)))
    assert (True, len(PNG)) == (PNG in request.body, request.copied_bytes)
    assert PROVIDERS["ideogram"].capability("ideogram-v4", {}).edits is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (made(ITEM), 200, [LINK]),
        (made(ITEM, UNSAFE), 200, [LINK]),
        (made({"url": LINK}), 200, [LINK]),
        (made(UNSAFE), 200, ErrorCode.CONTENT_MODERATED),
        (made(UNSAFE, UNSAFE | {"url": ""}), 200, ErrorCode.CONTENT_MODERATED),
        (made(ITEM | {"is_image_safe": False}), 200, ErrorCode.INVALID_RESPONSE),
        (made(UNSAFE, ITEM | {"url": None}), 200, ErrorCode.INVALID_RESPONSE),
        (made(UNSAFE, "x"), 200, ErrorCode.INVALID_RESPONSE),
        (made(ITEM | {"url": "ftp://x"}), 200, ErrorCode.INVALID_RESPONSE),
        (made(), 200, ErrorCode.INVALID_RESPONSE),
        ({"error": "Prompt provided failed safety check"}, 422, ErrorCode.CONTENT_INPUT),
        ({"error": "https://example.com/an-elephant.png is unsafe"}, 422, ErrorCode.CONTENT_INPUT),
        ({"error": "x"}, 400, ErrorCode.UPSTREAM_REJECTED),
        ({"error": "x"}, 401, ErrorCode.BARE_UNAUTHORIZED),
        ({"error": "x"}, 402, ErrorCode.BARE_PAYMENT_REQUIRED),
        ({"error": "x"}, 429, ErrorCode.BARE_RATE_LIMITED),
        ({}, 422, ErrorCode.UPSTREAM_REJECTED),
        (problem(401), 429, ErrorCode.BARE_RATE_LIMITED),
        (problem(418), 418, ErrorCode.BARE_REFUSAL),
        (problem(400, data=[ITEM]), 400, ErrorCode.INVALID_RESPONSE),
    ],
)
def test_a_reply_is_read_by_its_images_or_its_status(body: object, status: int, expected: object) -> None:
    assert expected == V3.outcome(body, status)


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_that_the_body_states_is_the_providers_own(status: int) -> None:
    assert STATUSES[status] == V3.outcome(problem(status), status)


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    found = V3.outcome(body, status)
    assert isinstance(found, ErrorCode)
    assert found.spec.outcome is Outcome.UNKNOWN


def test_withheld_images_and_the_size_are_read() -> None:
    reply = V3.read(made(UNSAFE, ITEM, UNSAFE))
    assert (2, Size(1280, 800)) == (reply.failed, reply.made)
    assert V3.read(made(ITEM | {"resolution": "large"})).made is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"error": "prompt is required"}, 400, None),
        ({"error": "No authorization token provided"}, 401, ErrorCode.KEY_INVALID),
        ({}, 401, ErrorCode.BARE_UNAUTHORIZED),
        (problem(402), 402, ErrorCode.INSUFFICIENT_BALANCE),
        (made(ITEM), 200, ErrorCode.INVALID_RESPONSE),
        (problem(503), 503, ErrorCode.UPSTREAM_ERROR),
    ],
)
def test_a_request_without_a_prompt_is_the_key_check(body: object, status: int, expected: ErrorCode | None) -> None:
    assert expected == V3.check(body, status).error_code
    request = PROVIDERS["ideogram"].build_key_check(SECRET)
    assert ("POST", (b"{}",)) == (request.method, request.body)
    assert KeyCheck() == V3.check({"error": "x"}, 400)
