"""Stability's wire: forms, images in base64, and refusals (reference/providers.md section 3)."""

from email.message import Message
from email.parser import BytesParser

import pytest

from gateway.domain.billing import PerImage
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import Format, ImageJob, Size
from gateway.providers import PROVIDERS
from gateway.providers.protocol import KeyCheck, ProviderRequest
from gateway.providers.stability import ERRORS, MODELS
from tests.support.own_formats import EDIT, ENCODED, PNG, STRANGE, Wire

SD3 = Wire("stability", "sd3.5-large")
CORE = Wire("stability", "stable-image-core")
ULTRA = Wire("stability", "stable-image-ultra")
SUCCESS = {"image": ENCODED, "seed": 1, "finish_reason": "SUCCESS"}


def form(request: ProviderRequest) -> dict[str, str]:
    """The fields of a form; a file is its name and type."""
    head = b"content-type: %b\r\n\r\n" % dict(request.headers)["content-type"].encode()
    parts = [part for part in BytesParser().parsebytes(head + b"".join(request.body)).walk() if not part.is_multipart()]
    return {str(part.get_param("name", header="content-disposition")): _shown(part) for part in parts}


def _shown(part: Message) -> str:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    if name := part.get_filename():
        assert content == PNG
        return f"{name} {part.get_content_type()}"
    return content.decode()


def own(name: str, **more: object) -> dict[str, object]:
    return {"id": "4c0b", "name": name, "errors": ["some text"]} | more


@pytest.mark.parametrize(
    ("wire", "job", "path", "fields"),
    [
        (SD3, ImageJob("a fox"), "sd3", {"model": "sd3.5-large", "output_format": "png"}),
        (CORE, ImageJob("a fox"), "core", {"output_format": "png"}),
        (ULTRA, ImageJob("a fox", output_format=Format.WEBP), "ultra", {"output_format": "webp"}),
        (CORE, ImageJob("a fox", size=Size(1536, 1024)), "core", {"output_format": "png", "aspect_ratio": "3:2"}),
        (CORE, ImageJob("a fox", aspect_ratio="9:21"), "core", {"output_format": "png", "aspect_ratio": "9:21"}),
        (CORE, ImageJob("a fox", seed=7), "core", {"output_format": "png", "seed": "7"}),
        (CORE, ImageJob("a fox", seed=0), "core", {"output_format": "png", "seed": "4294967294"}),
    ],
)
def test_a_generation_is_a_form(wire: Wire, job: ImageJob, path: str, fields: dict[str, str]) -> None:
    request = wire.request(job)
    assert ("POST", f"/v2beta/stable-image/generate/{path}") == (request.method, request.path)
    assert {"prompt": "a fox"} | fields == form(request)
    headers = dict(request.headers)
    assert ("Bearer sk-secret", "application/json") == (headers["authorization"], headers["accept"])


def test_an_edit_has_the_image_and_a_strength() -> None:
    common = {"prompt": "in red", "output_format": "png", "image": "image.png image/png", "strength": "0.7"}
    assert common | {"model": "sd3.5-large", "mode": "image-to-image"} == form(SD3.request(EDIT))
    assert common == form(ULTRA.request(EDIT))
    assert len(PNG) == ULTRA.request(EDIT).copied_bytes
    assert PROVIDERS["stability"].capability("stable-image-core", {}).edits is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (SUCCESS, 200, ["iVBO"]),
        (SUCCESS | {"finish_reason": "CONTENT_FILTERED"}, 200, ErrorCode.CONTENT_MODERATED),
        ({"finish_reason": "CONTENT_FILTERED"}, 200, ErrorCode.CONTENT_MODERATED),
        (SUCCESS | {"finish_reason": "ERROR"}, 200, ErrorCode.INVALID_RESPONSE),
        ({"image": ENCODED}, 200, ErrorCode.INVALID_RESPONSE),
        ({"finish_reason": "SUCCESS", "image": ""}, 200, ErrorCode.INVALID_RESPONSE),
        ({"finish_reason": "SUCCESS", "image": "no image"}, 200, ErrorCode.INVALID_RESPONSE),
        (own("content_moderation"), 403, ErrorCode.CONTENT_INPUT),
        (own("unauthorized", errors=None, message="missing authorization header"), 401, ErrorCode.KEY_INVALID),
        (own("internal_error"), 500, ErrorCode.UPSTREAM_ERROR),
        (own("bad_request", image=ENCODED), 400, ErrorCode.INVALID_RESPONSE),
        (own("bad_request", errors=["https://platform.stability.ai/docs"]), 400, ErrorCode.UPSTREAM_REJECTED),
        (own("unauthorized"), 200, ErrorCode.INVALID_RESPONSE),
        ({"name": "unauthorized", "errors": ["x"]}, 401, ErrorCode.BARE_UNAUTHORIZED),
        (own("something_new"), 402, ErrorCode.BARE_PAYMENT_REQUIRED),
        (own("something_new"), 500, ErrorCode.INVALID_RESPONSE),
        ({"errors": ["x"]}, 429, ErrorCode.BARE_RATE_LIMITED),
    ],
)
def test_a_reply_is_read_by_its_reason_or_its_name(body: object, status: int, expected: object) -> None:
    assert expected == SD3.outcome(body, status)


@pytest.mark.parametrize("name", ERRORS)
def test_a_name_counts_only_in_the_providers_own_form(name: str) -> None:
    assert ERRORS[name] == SD3.outcome(own(name), 400)
    assert SD3.outcome({"name": name, "errors": ["x"]}, 400) is ErrorCode.UPSTREAM_REJECTED


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    found = SD3.outcome(body, status)
    assert isinstance(found, ErrorCode)
    assert found.spec.outcome is Outcome.UNKNOWN


def test_the_size_is_that_of_the_image() -> None:
    reply = SD3.read(SUCCESS)
    assert Size(48, 32) == reply.made
    assert 1 == len(reply.pictures)


def test_too_many_requests_cost_the_account_a_minute() -> None:
    with pytest.raises(GatewayError) as failed:
        SD3.read(own("rate_limit_exceeded"), 429)
    assert (ErrorCode.ACCOUNT_RATE_LIMITED, 60.0) == (failed.value.error_code, failed.value.cooldown_s)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"credits": 631.5}, 200, KeyCheck(proves_balance=True)),
        ({"credits": 8}, 200, KeyCheck(proves_balance=True)),
        ({"credits": 3}, 200, KeyCheck()),
        ({"credits": 0.0}, 200, KeyCheck(ErrorCode.INSUFFICIENT_BALANCE, "0.0 credits left")),
        ({"credits": "many"}, 200, KeyCheck(ErrorCode.INVALID_RESPONSE)),
        (own("unauthorized"), 401, KeyCheck(ErrorCode.KEY_INVALID)),
        ({}, 401, KeyCheck(ErrorCode.BARE_UNAUTHORIZED)),
    ],
)
def test_the_balance_is_the_key_check(body: object, status: int, expected: KeyCheck) -> None:
    assert expected == SD3.check(body, status)


def test_prices_are_credits() -> None:
    prices = {name: facts.rate for name, facts in MODELS.items()}
    assert PerImage(65_000) == prices["sd3.5-large"]
    assert PerImage(80_000) == prices["stable-image-ultra"]


def test_a_capability_that_the_provider_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="exact_sizes: this provider does not support True"):
        PROVIDERS["stability"].capability("sd3.5-large", {"exact_sizes": True})
    assert "seed" not in PROVIDERS["stability"].capability("sd3.5-large", {"seed": False}).fields
