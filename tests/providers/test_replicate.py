"""Replicate's wire: fields by model, and states of predictions (reference/providers.md 4.3)."""

from typing import Final

import msgspec
import pytest

from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import Format, ImageJob, ImageReply, ImageUrl, ResponseFormat, Size
from gateway.domain.tasks import Task
from gateway.providers.protocol import KeyCheck
from gateway.providers.replicate import MODELS, STATUSES, Replicate
from gateway.providers.replies import UpstreamResponse
from tests.support.own_formats import EDIT, ENCODED, SECRET, STRANGE, Wire

REPLICATE: Final = Replicate()
SCHNELL, PRO, FLUX_2 = (Wire("replicate", f"black-forest-labs/flux-{name}") for name in ("schnell", "1.1-pro", "2-dev"))
IDEOGRAM, RECRAFT = Wire("replicate", "ideogram-ai/ideogram-v3-turbo"), Wire("replicate", "recraft-ai/recraft-v3")
URL: Final = "https://api.replicate.com/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu"
TASK: Final = Task("gm3qorzdhgbfurvjtvhg6dckhu", URL)
LINK, OTHER = "https://replicate.delivery/x/out-0.webp", "https://replicate.delivery/x/out-1.webp"
THROTTLED: Final = "Request was throttled. Your rate limit resets in ~30s."
SENSITIVE: Final = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"


def state(status: str, **more: object) -> dict[str, object]:
    return {"id": TASK.id, "status": status, "output": None, "error": None, "urls": {"get": URL}} | more


def problem(status: object, title: str = "A title") -> dict[str, object]:
    return {"title": title, "detail": "a text", "status": status}


def response(status: int, body: object) -> UpstreamResponse:
    sent = SCHNELL.request(ImageJob("https://example.com/an-elephant.png")).body
    return UpstreamResponse(status, body if isinstance(body, bytes) else msgspec.json.encode(body), sent=sent)


def links(reply: object) -> object:
    if not isinstance(reply, ImageReply):
        return reply
    return tuple(picture.url for picture in reply.pictures if isinstance(picture, ImageUrl))


@pytest.mark.parametrize(
    ("wire", "job", "images", "fields"),
    [
        (SCHNELL, ImageJob("a fox"), 1, {"aspect_ratio": "1:1"}),
        (
            *(SCHNELL, ImageJob("a fox", size=Size(1792, 1024), seed=7, output_format=Format.JPEG), 3),
            {"aspect_ratio": "16:9", "num_outputs": 3, "seed": 7, "output_format": "jpg"},
        ),
        (PRO, ImageJob("a fox", size=Size(1024, 1024)), 1, {"aspect_ratio": "custom", "width": 1024, "height": 1024}),
        (IDEOGRAM, ImageJob("a fox"), 1, {"resolution": "1024x1024"}),
        (IDEOGRAM, ImageJob("a fox", aspect_ratio="16:9"), 1, {"aspect_ratio": "16:9"}),
        (IDEOGRAM, ImageJob("a fox", pixels=Size(512, 1536)), 1, {"resolution": "512x1536"}),
        (RECRAFT, ImageJob("a fox", size=Size(1536, 1024)), 1, {"size": "1536x1024"}),
    ],
)
def test_each_model_gets_its_own_fields(wire: Wire, job: ImageJob, images: int, fields: dict[str, object]) -> None:
    request = wire.request(job, images)
    assert ("POST", f"/v1/models/{wire.model}/predictions") == (request.method, request.path)
    headers = dict(request.headers)
    assert ("Bearer sk-secret", "30m") == (headers["authorization"], headers["cancel-after"])
    assert {"input": {"prompt": "a fox"} | fields} == wire.body(job, images)


def test_an_edit_has_its_images() -> None:
    size = {"aspect_ratio": "custom", "width": 1024, "height": 1024}
    link = f"data:image/png;base64,{ENCODED}"
    assert {"input": {"prompt": "in red", **size, "input_images": [link]}} == FLUX_2.body(EDIT)


def test_every_model_makes_what_it_says_and_others_are_refused() -> None:
    for model in MODELS:
        assert "input" in Wire("replicate", model).body(ImageJob("a fox"))
    with pytest.raises(LookupError, match="'x/y' has fields that the gateway does not know"):
        REPLICATE.capability("x/y", {})


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, state("starting"), TASK),
        (200, state("succeeded", output=LINK), (LINK,)),
        (201, state("starting", id=None), ErrorCode.INVALID_RESPONSE),
        (201, state("new"), ErrorCode.INVALID_RESPONSE),
        (201, state("failed", error=SENSITIVE), ErrorCode.CONTENT_INPUT),
        *((status, problem(status), error_code) for status, error_code in STATUSES.items()),
        (401, problem(None), ErrorCode.BARE_UNAUTHORIZED),
        (402, problem(401), ErrorCode.BARE_PAYMENT_REQUIRED),
        (402, {"detail": "x"}, ErrorCode.BARE_PAYMENT_REQUIRED),
        (429, {"detail": THROTTLED}, ErrorCode.ACCOUNT_RATE_LIMITED),
        (429, {"detail": f"{THROTTLED} {THROTTLED}"}, ErrorCode.BARE_RATE_LIMITED),
        (500, problem(500), ErrorCode.INVALID_RESPONSE),
        (422, problem(422) | {"output": [LINK]}, ErrorCode.INVALID_RESPONSE),
    ],
)
def test_a_submission_is_a_task_or_an_error(status: int, body: object, expected: object) -> None:
    found: object
    try:
        found = links(REPLICATE.read_reply(response(status, body), ResponseFormat.URL))
    except GatewayError as error:
        found = error.error_code
    assert expected == found


def test_the_length_of_a_throttle_is_stated() -> None:
    with pytest.raises(GatewayError) as raised:
        REPLICATE.read_reply(response(429, {"detail": THROTTLED}), ResponseFormat.URL)
    assert 30 == raised.value.cooldown_s


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    with pytest.raises(GatewayError) as raised:
        REPLICATE.read_reply(response(status, body), ResponseFormat.URL)
    assert raised.value.row.outcome is Outcome.UNKNOWN


RAISED: Final = "the task is asked for again"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, state("starting"), None),
        (200, state("processing"), None),
        (200, state("succeeded", output=[LINK, OTHER]), (LINK, OTHER)),
        (200, state("succeeded", output=LINK), (LINK,)),
        (200, state("succeeded", output=[None, OTHER]), (OTHER,)),
        (200, state("succeeded", output=[]), ErrorCode.INVALID_RESPONSE),
        (200, state("succeeded"), ErrorCode.INVALID_RESPONSE),
        (200, state("succeeded", output={"image": LINK}), ErrorCode.INVALID_RESPONSE),
        (200, state("failed", error="the model's process ended"), ErrorCode.UPSTREAM_ERROR),
        (200, state("failed", error=SENSITIVE), ErrorCode.CONTENT_INPUT),
        (200, state("failed", error="NSFW content detected. Try a different prompt."), ErrorCode.CONTENT_INPUT),
        (200, state("failed", error="bad prompt: NSFW content detected"), ErrorCode.UPSTREAM_ERROR),
        (200, state("failed"), ErrorCode.UPSTREAM_ERROR),
        (200, state("aborted"), ErrorCode.UPSTREAM_ERROR),
        (200, state("canceled"), ErrorCode.TASK_LOST),
        (404, problem(404), ErrorCode.TASK_LOST),
        (404, {"detail": "x"}, RAISED),
        (200, state("queued"), RAISED),
        (200, state("succeeded", id="other", output=LINK), RAISED),
        (401, problem(401), RAISED),
        (429, {"detail": THROTTLED}, RAISED),
        (500, state("failed"), RAISED),
        (502, b"<html>", RAISED),
        (200, b"", RAISED),
    ],
)
def test_a_state_is_read(status: int, body: object, expected: object) -> None:
    found: object
    try:
        found = links(REPLICATE.read_poll(response(status, body), TASK, ResponseFormat.URL))
    except GatewayError:
        found = RAISED
    assert expected == (found.error_code if isinstance(found, GatewayError) else found)


def test_a_task_s_name_stays_in_its_place_of_the_path() -> None:
    asked = REPLICATE.build_poll(Task("a/..?b"), SECRET)
    assert ("GET", "/v1/predictions/a%2F..%3Fb") == (asked.method, asked.path)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"type": "user", "username": "acme"}, 200, KeyCheck()),
        ({}, 200, ErrorCode.INVALID_RESPONSE),
        (problem(401), 401, ErrorCode.KEY_INVALID),
        ({"detail": "x"}, 401, ErrorCode.BARE_UNAUTHORIZED),
        (problem(500), 500, ErrorCode.INVALID_RESPONSE),
    ],
)
def test_the_account_is_the_key_check(body: object, status: int, expected: object) -> None:
    found = SCHNELL.check(body, status)
    assert expected == (found.error_code or found)
