"""Stability AI, api.stability.ai: `/v2beta/stable-image/generate` (reference/providers.md section 3)."""

from collections.abc import Mapping
from typing import Final

import pybase64

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.image_sizes import read_size
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, Operation, ResponseFormat, Size
from gateway.domain.pricing import PerImage
from gateway.domain.sizes import AspectRatios
from gateway.providers.error_texts import refusal
from gateway.providers.forms import build_form
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_base64
from gateway.providers.stray_images import has_stray_images

_RATIOS: Final = AspectRatios(
    {
        "1:1": Size(1024, 1024),
        "16:9": Size(1344, 768),
        "21:9": Size(1536, 640),
        "2:3": Size(832, 1216),
        "3:2": Size(1216, 832),
        "4:5": Size(896, 1088),
        "5:4": Size(1088, 896),
        "9:16": Size(768, 1344),
        "9:21": Size(640, 1536),
    }
)
"""`aspect_ratio` (3.1). The pixels are not documented: these have one megapixel, and the image's own are reported."""

_EDITS: Final = EditRule(
    frozenset({Format.JPEG, Format.PNG, Format.WEBP}), image_max_bytes=10 * 1024 * 1024, supports_links=False
)
"""An edit by `image` and `strength`. Stability's limit is 10 MiB for the whole request (3.4: 413).

`edit/inpaint` takes a mask whose white part is edited. OpenAI's is transparent there, so masks are refused.
"""
_STRENGTH: Final = "0.7"
"""How much an edit changes: 0 nothing, 1 everything. The API demands it, and OpenAI's clients have no such field."""
_RANDOM_SEED: Final = 0
_SEED_FOR_ZERO: Final = 4_294_967_294
"""The API takes the seed 0 as random, so a client's 0 becomes the largest one (3.1)."""


def _facts(credits_: float, *, edits: bool = True) -> ModelFacts:
    """Returns a model's facts; a credit costs 0.01 USD (3.1)."""
    fields = {"seed", "background.opaque", *(f"output_format.{form}" for form in ("jpeg", "png", "webp"))}
    capability = Capability(
        (_RATIOS,), prompt_max_chars=10_000, fields=frozenset(fields), edits=_EDITS if edits else None
    )
    return ModelFacts(capability, PerImage(round(credits_ * 10_000)))


MODELS: Final[Mapping[str, ModelFacts]] = {
    "sd3.5-large": _facts(6.5),
    "sd3.5-large-turbo": _facts(4),
    "sd3.5-medium": _facts(3.5),
    "sd3.5-flash": _facts(2.5),
    "stable-image-core": _facts(3, edits=False),
    "stable-image-ultra": _facts(8),
}
"""Models and credits per image (3.1). A failed request is free; a blurred image costs as much as any."""

ERRORS: Final[Mapping[str, ErrorCode]] = {
    "bad_request": ErrorCode.UPSTREAM_REJECTED,
    "invalid_prompts": ErrorCode.CONTENT_INPUT,
    "content_moderation": ErrorCode.CONTENT_INPUT,
    "payload_too_large": ErrorCode.UPSTREAM_BODY_TOO_LARGE,
    "unprocessable_entity": ErrorCode.UPSTREAM_REJECTED,
    "unauthorized": ErrorCode.KEY_INVALID,
    "payment_required": ErrorCode.INSUFFICIENT_BALANCE,
    "insufficient_balance": ErrorCode.INSUFFICIENT_BALANCE,
    "rate_limit_exceeded": ErrorCode.ACCOUNT_RATE_LIMITED,
    "too_many_requests": ErrorCode.ACCOUNT_RATE_LIMITED,
    "internal_error": ErrorCode.UPSTREAM_ERROR,
    "service_unavailable": ErrorCode.UPSTREAM_ERROR,
}
"""`name` of an error to error code (3.4; docs/providers.md says which names are documented)."""

_PENALTY_S: Final = 60.0
"""Time-out of an account that sent more than 150 requests in 10 s (3.4)."""
_PATH: Final = "/v2beta/stable-image/generate"
_SERVICES: Final = {"stable-image-ultra": "ultra", "stable-image-core": "core"}
"""Services with one model. The service `sd3` has a field for it."""
_BALANCE_PATH: Final = "/v1/user/balance"
_CHEAPEST, _DEAREST = 2.5, 8
"""Credits of an image."""


class Stability:
    """The `stability` provider."""

    models = MODELS
    base_url = "https://api.stability.ai"
    result_hosts: tuple[str, ...] = ()
    """It delivers no links."""
    paths: tuple[str, ...] = (*(f"{_PATH}/{service}" for service in ("ultra", "core", "sd3")), _BALANCE_PATH)

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model; an unknown one is sent to the service `sd3`."""
        return lowered(MODELS.get(model, MODELS["sd3.5-large"]).capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        service, files = _SERVICES.get(plan.model, "sd3"), []
        form = {"prompt": job.prompt, "output_format": (job.output_format or Format.PNG).value}
        if service == "sd3":
            form["model"] = plan.model
        if job.operation is Operation.EDIT:
            [image] = job.inputs
            assert image.format
            files.append(("image", f"image/{image.format.value}", pybase64.b64decode(image.base64)))
            form["strength"] = _STRENGTH
            if service == "sd3":
                form["mode"] = "image-to-image"
        if plan.shape.aspect_ratio and "mode" not in form:  # sd3 keeps the shape of the image
            form["aspect_ratio"] = plan.shape.aspect_ratio
        if job.seed is not None:
            form["seed"] = str(_SEED_FOR_ZERO if job.seed == _RANDOM_SEED else job.seed)
        content_type, pieces = build_form(form, files, secret)
        headers = (*_headers(secret), ("content-type", content_type))
        copied_bytes = sum(len(content) for _, _, content in files)
        return ProviderRequest("POST", f"{_PATH}/{service}", headers, pieces, copied_bytes)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:  # noqa: ARG002 - one form
        """Reads the image of a response. Raises: GatewayError.

        A filtered image is blurred and charged: it is withheld, as an image that a safety check withheld.
        """
        envelope = UntrustedObject({})
        try:
            envelope = parse_any(reply)
            _raise_error(reply, envelope)
            return _read_image(envelope)
        except GatewayError as error:
            is_judged = error.error_code is ErrorCode.CONTENT_MODERATED or error.row.outcome is Outcome.UNKNOWN
            if is_judged or not has_stray_images(reply, envelope, has_links=False):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", _BALANCE_PATH, _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the balance, which proves one only if it pays for every model."""
        envelope = parse_any(reply)
        _raise_error(reply, envelope)
        credits_ = envelope.value("credits")
        if not isinstance(credits_, int | float):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no credits")
        if credits_ < _CHEAPEST:
            return KeyCheck(ErrorCode.INSUFFICIENT_BALANCE, f"{credits_} credits left")
        return KeyCheck(proves_balance=credits_ >= _DEAREST)


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("authorization", f"Bearer {secret.plaintext}"), ("accept", "application/json")


def _raise_error(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the error of `{"id", "name", "errors": [...]}`, or of the status; v1 has `message` for `errors`."""
    if 200 <= reply.status < 300:
        return
    name, errors = envelope.text("name"), envelope.value("errors")
    text = str(errors[0]) if isinstance(errors, list) and errors else envelope.text("message")
    detail, error_code = f"{name}: {text}"[:1000], ERRORS.get(name)
    if error_code is None or not (envelope.text("id") and text and reply.status >= 400):
        raise http_error(reply, detail)
    is_busy = error_code is ErrorCode.ACCOUNT_RATE_LIMITED
    raise refusal(error_code, detail, text, reply, cooldown_s=_PENALTY_S if is_busy else None)


def _read_image(envelope: UntrustedObject) -> ImageReply:
    image, reason = read_base64(envelope.raw("image")), envelope.text("finish_reason")
    if reason == "CONTENT_FILTERED":
        raise GatewayError(ErrorCode.CONTENT_MODERATED, "the image is blurred")
    if reason != "SUCCESS" or image is None:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"finish_reason {reason!r}, {'an' if image else 'no'} image")
    return ImageReply((image,), made=read_size(image.base64))
