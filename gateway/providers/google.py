"""Google's Gemini API, generativelanguage.googleapis.com: `generateContent` (reference/providers.md section 10)."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import islice
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.image_sizes import read_size
from gateway.domain.images import (
    Base64Image,
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ResponseFormat,
    Size,
    TokenUsage,
)
from gateway.domain.pricing import PerToken
from gateway.domain.sizes import AspectRatios
from gateway.providers.error_texts import refusal
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_base64
from gateway.providers.stray_images import has_stray_images

SIZES: Final = {
    "1:1": Size(1024, 1024),
    "2:3": Size(848, 1264),
    "3:2": Size(1264, 848),
    "3:4": Size(896, 1200),
    "4:3": Size(1200, 896),
    "4:5": Size(928, 1152),
    "5:4": Size(1152, 928),
    "9:16": Size(768, 1376),
    "16:9": Size(1376, 768),
    "21:9": Size(1584, 672),
}
"""Pixels of each `aspect_ratio` at 1K. 9:16 has a source, the others are general knowledge; the image's own pixels are
reported. 2K and 4K cost more, and a model of the gateway has one price for all sizes.
"""

_EDITS: Final = EditRule(
    frozenset({Format.JPEG, Format.PNG, Format.WEBP}),
    image_max_bytes=7 * 1024 * 1024,
    images_max=3,
    supports_links=False,
)
"""An edit by images in the prompt. A request of more than 20 MB is refused, so three images of 7 MB in base64 are."""

_OUTPUT_TOKENS_MAX: Final = 2520
"""An image of 1K has 1120 or 1290; more for thoughts. A bound of the reservation, not a fact of the reference."""


def _facts(input_usd: float, output_usd: int, retires_on: date | None = None) -> ModelFacts:
    """Returns a model's facts, with its prices in USD per million tokens."""
    capability = Capability(
        (AspectRatios(SIZES),), prompt_max_chars=32_000, fields=frozenset({"background.opaque"}), edits=_EDITS
    )
    micros = round(input_usd * 1_000_000)
    return ModelFacts(capability, PerToken(micros, output_usd * 1_000_000, 36_000, _OUTPUT_TOKENS_MAX), retires_on)


MODELS: Final[Mapping[str, ModelFacts]] = {
    "gemini-nano-banana-2.1": _facts(1.5, 30),
    "gemini-3-pro-image": _facts(2, 120),
    "gemini-3.1-flash-lite-image": _facts(0.25, 30),
    "gemini-3.1-flash-image": _facts(0.5, 60, date(2026, 10, 29)),
    "gemini-2.5-flash-image": _facts(0.3, 30, date(2027, 3, 15)),
}
"""Models, prices and dates (section 10, its table). Sizes in pixels differ a little between them."""

BLOCKED: Final = frozenset(
    (
        *("SAFETY", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "RECITATION"),
        *("IMAGE_RECITATION", "BLOCKLIST", "SPII", "LANGUAGE", "MODEL_ARMOR"),
    )
)
FINISHED: Final[Mapping[str, ErrorCode]] = {
    **dict.fromkeys(sorted(BLOCKED), ErrorCode.CONTENT_OUTPUT),
    "NO_IMAGE": ErrorCode.EMPTY_RESPONSE,
    "IMAGE_OTHER": ErrorCode.EMPTY_RESPONSE,
    "OTHER": ErrorCode.EMPTY_RESPONSE,
    "MAX_TOKENS": ErrorCode.EMPTY_RESPONSE,
    "MALFORMED_RESPONSE": ErrorCode.EMPTY_RESPONSE,
    "STOP": ErrorCode.EMPTY_RESPONSE,  # the model wrote a text instead
    "PUP_LIMITED_DISABLED": ErrorCode.ACCOUNT_UNVERIFIED,  # limited for violations of the policy: a person must act
}
"""`finishReason` of a response without an image to error code (section 10; the enums of google-genai 3.6.1)."""

STATUSES: Final[Mapping[str, ErrorCode]] = {
    "INVALID_ARGUMENT": ErrorCode.UPSTREAM_REJECTED,
    "FAILED_PRECONDITION": ErrorCode.ACCOUNT_UNVERIFIED,  # the account's region or billing
    "UNAUTHENTICATED": ErrorCode.KEY_INVALID,
    "PERMISSION_DENIED": ErrorCode.KEY_MODEL_DENIED,
    "NOT_FOUND": ErrorCode.UPSTREAM_UNSUPPORTED,
    "RESOURCE_EXHAUSTED": ErrorCode.ACCOUNT_RATE_LIMITED,
    "INTERNAL": ErrorCode.UPSTREAM_ERROR,
    "UNAVAILABLE": ErrorCode.UPSTREAM_ERROR,  # overloaded
    "DEADLINE_EXCEEDED": ErrorCode.UPSTREAM_TIMEOUT,
}
"""`error.status` to error code (section 10; Google's public error model, not read again). Failures are free."""

REASONS: Final[Mapping[str, ErrorCode]] = {
    "API_KEY_INVALID": ErrorCode.KEY_INVALID,
    "API_KEY_EXPIRED": ErrorCode.KEY_INVALID,
    "API_KEY_SERVICE_BLOCKED": ErrorCode.KEY_INVALID,
    "CONSUMER_SUSPENDED": ErrorCode.ACCOUNT_UNVERIFIED,
    "BILLING_DISABLED": ErrorCode.INSUFFICIENT_BALANCE,
}
"""`reason` of an ErrorInfo in `error.details`, which is more precise (section 10: a bad key is 400)."""

_MODELS_PATH: Final = "/v1beta/models"
_CANDIDATES_MAX: Final = 8
_PARTS_MAX: Final = 64
_DELAY: Final = re.compile(r"(\d{1,5}(?:\.\d{1,9})?)s", re.ASCII)


class Google:
    """The `google` provider."""

    models = MODELS
    base_url = "https://generativelanguage.googleapis.com"
    result_hosts: tuple[str, ...] = ()
    """It delivers no links."""
    paths: tuple[str, ...] = (_MODELS_PATH,)

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model. All have the same at 1K."""
        return lowered(MODELS.get(model, MODELS["gemini-nano-banana-2.1"]).capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """Builds the body. Images of the job are slices of it."""
        settings: dict[str, object] = {"responseModalities": ["IMAGE"]}
        if plan.shape.aspect_ratio:
            settings["imageConfig"] = {"aspectRatio": plan.shape.aspect_ratio}
        body: list[bytes | memoryview] = [b'{"contents":[{"role":"user","parts":[{"text":%b}' % _encode(job.prompt)]
        for image in job.inputs:
            assert image.format
            head = b',{"inlineData":{"mimeType":"image/%b","data":"' % image.format.value.encode()
            body += [head, image.base64, b'"}}']
        body.append(b']}],"generationConfig":%b}' % _encode(settings))
        path = f"{_MODELS_PATH}/{quote(plan.model, safe='')}:generateContent"
        headers = (*_headers(secret), ("content-type", "application/json"))
        return ProviderRequest("POST", path, headers, tuple(body))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:  # noqa: ARG002 - one form
        """Reads the images of a response. Raises: GatewayError; a refusal is a success without an image."""
        envelope = UntrustedObject({})
        try:
            envelope = parse_any(reply)
            _raise_error(reply, envelope)
            return _read_images(envelope)
        except GatewayError as error:
            is_success = error.error_code is ErrorCode.EMPTY_RESPONSE
            is_unknown = error.row.outcome is Outcome.UNKNOWN
            if is_unknown or not has_stray_images(reply, envelope, is_success=is_success, has_links=False):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"{_MODELS_PATH}?pageSize=1", _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Accepts any list of models: the key is valid. The balance stays unknown."""
        envelope = parse_any(reply)
        _raise_error(reply, envelope)
        if not isinstance(envelope.value("models"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("x-goog-api-key", secret.plaintext), ("accept", "application/json")


def _raise_error(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the error of `{"error": {"code", "message", "status", "details"}}`, or of the HTTP status."""
    error = envelope.inner("error")
    status, text = error.text("status"), error.text("message")
    if 200 <= reply.status < 300 and not error.fields:
        return
    detail, details = f"{status}: {text}", error.inners("details")
    if error.integer("code") != reply.status or status not in STATUSES:  # a proxy's, or a newer one
        raise http_error(reply, detail)
    reason = next((name for one in details if (name := one.text("reason")) in REASONS), "")
    error_code = REASONS[reason] if reason else STATUSES[status]
    delay = next((found for one in details if (found := _DELAY.fullmatch(one.text("retryDelay")))), None)
    wait_s = float(delay[1]) if delay else None
    if status == "RESOURCE_EXHAUSTED" and "PerDay" in "".join(_quotas(details)):
        error_code, wait_s = ErrorCode.QUOTA_EXHAUSTED_DAILY, None
    failure = refusal(error_code, f"{detail} {reason}".strip(), text, reply, cooldown_s=wait_s)
    if wait_s is not None:
        failure.retry_after_s = wait_s
    raise failure


def _quotas(details: list[UntrustedObject]) -> Iterator[str]:
    """Yields the names of the quotas that are used up."""
    for one in details:
        for violation in one.inners("violations"):
            yield violation.text("quotaId")


def _read_images(envelope: UntrustedObject) -> ImageReply:
    candidates = envelope.inners("candidates")[:_CANDIDATES_MAX]
    pictures = tuple(image for candidate in candidates for image in _images(candidate))
    usage = _read_usage(envelope.inner("usageMetadata"))
    if pictures:
        return ImageReply(pictures, envelope.text("responseId"), usage=usage, made=read_size(pictures[0].base64))
    if not candidates and (block := envelope.inner("promptFeedback").text("blockReason")):
        raise GatewayError(ErrorCode.CONTENT_INPUT, f"blockReason {block}")
    reasons = [candidate.text("finishReason") for candidate in candidates]
    error_code = FINISHED.get(reasons[0]) if reasons else None
    if error_code is None or _image_tokens(envelope.inner("usageMetadata")):
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"no image, finishReason {reasons}")
    raise GatewayError(error_code, f"finishReason {reasons[0]}")


def _images(candidate: UntrustedObject) -> Iterator[Base64Image]:
    """Yields the images of a candidate, without those of its thoughts."""
    for part in islice(candidate.inner("content").inners("parts"), _PARTS_MAX):
        image = None if part.value("thought") else read_base64(part.inner("inlineData").raw("data"))
        if image:
            yield image


def _image_tokens(usage: UntrustedObject) -> int:
    details = usage.inners("candidatesTokensDetails")
    return sum(one.integer("tokenCount") or 0 for one in details if one.text("modality") == "IMAGE")


def _read_usage(usage: UntrustedObject) -> TokenUsage | None:
    """Reads the tokens; thoughts are billed as output. Returns None without both counts."""
    read, written = usage.integer("promptTokenCount"), usage.integer("candidatesTokenCount")
    if read is None or written is None or min(read, written) < 0:
        return None
    by_kind = {one.text("modality"): one.integer("tokenCount") or 0 for one in usage.inners("promptTokensDetails")}
    written += max(0, usage.integer("thoughtsTokenCount") or 0)
    return TokenUsage(read, written, by_kind.get("TEXT", 0), by_kind.get("IMAGE", 0))
