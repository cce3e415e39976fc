"""MiniMax's own API, api.minimax.io: `POST /v1/image_generation` (reference/minimax.md sections 1 to 4)."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import AspectRatios, Capability, SizeBounds
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ResponseFormat, Size
from gateway.providers.error_texts import refusal, word_error
from gateway.providers.minimax_key_check import read_quota
from gateway.providers.protocol import KeyCheck, ProviderRequest, bearer
from gateway.providers.replies import (
    STATUS_ERRORS,
    UntrustedObject,
    UpstreamResponse,
    has_images,
    http_error,
    parse_object,
    read_images,
)

PRESETS: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "1:1": Size(1024, 1024),
        "16:9": Size(1280, 720),
        "4:3": Size(1152, 864),
        "3:2": Size(1248, 832),
        "2:3": Size(832, 1248),
        "3:4": Size(864, 1152),
        "9:16": Size(720, 1280),
        "21:9": Size(1344, 576),
    }
)
"""Size of each `aspect_ratio` (reference/minimax.md 1.3)."""

PIXELS: Final = SizeBounds(512, 2048, 8)
"""`width` and `height` of image-01 (reference/minimax.md 1.2)."""

PROMPT_MAX_CHARS: Final = 1499

OUTPUT: Final = frozenset({"output_format.jpeg", "background.opaque"})
"""The only supported output (reference/minimax.md 1.4)."""

FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aigc_watermark": "minimax.aigc_watermark",
        "prompt_optimizer": "minimax.prompt_optimizer",
        "seed": "seed",
        "style": "minimax.style",
        "subject_reference": "input.character",
    }
)
"""Optional body fields and their domain names, in the order in which they are sent."""

CODES: Final[Mapping[int, ErrorCode]] = MappingProxyType(
    {
        # The error page of the API documentation, English and Chinese.
        1000: ErrorCode.UPSTREAM_ERROR,
        1001: ErrorCode.UPSTREAM_TIMEOUT,
        1002: ErrorCode.ACCOUNT_RATE_LIMITED,
        1004: ErrorCode.KEY_INVALID,
        1008: ErrorCode.INSUFFICIENT_BALANCE,
        1024: ErrorCode.UPSTREAM_ERROR,
        1026: ErrorCode.CONTENT_INPUT,
        1027: ErrorCode.CONTENT_OUTPUT,
        1033: ErrorCode.UPSTREAM_ERROR,
        1039: ErrorCode.ACCOUNT_TOKEN_LIMITED,
        1041: ErrorCode.ACCOUNT_CONNECTION_LIMITED,
        1042: ErrorCode.INVALID_PROMPT,
        1043: ErrorCode.UNEXPECTED_RESPONSE,
        1044: ErrorCode.UNEXPECTED_RESPONSE,
        2013: ErrorCode.UPSTREAM_REJECTED,  # four cases; error_texts.py distinguishes them
        20132: ErrorCode.UNEXPECTED_RESPONSE,
        2037: ErrorCode.UNEXPECTED_RESPONSE,
        2039: ErrorCode.UNEXPECTED_RESPONSE,
        2042: ErrorCode.UNEXPECTED_RESPONSE,
        2045: ErrorCode.ACCOUNT_GROWTH_LIMITED,
        2048: ErrorCode.UNEXPECTED_RESPONSE,
        2049: ErrorCode.KEY_INVALID,
        2056: ErrorCode.QUOTA_EXHAUSTED_PLAN,
        # The file and video pages only.
        1013: ErrorCode.UPSTREAM_ERROR,
        # MiniMax's own clients: its CLI (1028, 1030, 2061) and its MCP server (2038).
        1028: ErrorCode.QUOTA_EXHAUSTED_DAILY,
        1030: ErrorCode.QUOTA_EXHAUSTED_DAILY,
        2038: ErrorCode.ACCOUNT_UNVERIFIED,
        2061: ErrorCode.KEY_MODEL_DENIED,
        # Third-party classifiers.
        2046: ErrorCode.ACCOUNT_RATE_LIMITED,
        2047: ErrorCode.ACCOUNT_RATE_LIMITED,
        2067: ErrorCode.QUOTA_EXHAUSTED_PLAN,
        1_400_010_161: ErrorCode.INSUFFICIENT_BALANCE,
        # In no table found.
        2054: ErrorCode.UNEXPECTED_RESPONSE,
    }
)
"""`base_resp.status_code` to error code (reference/minimax.md section 3 has the source of each line)."""

NEWER_TYPES: Final[Mapping[str, ErrorCode]] = MappingProxyType(
    {
        "authentication_error": ErrorCode.KEY_INVALID,
        "authorized_error": ErrorCode.KEY_INVALID,
        "permission_error": ErrorCode.KEY_INVALID,
        "invalid_request_error": ErrorCode.UPSTREAM_REJECTED,
        "bad_request_error": ErrorCode.UPSTREAM_REJECTED,
        "rate_limit_error": ErrorCode.ACCOUNT_RATE_LIMITED,
        "insufficient_balance_error": ErrorCode.INSUFFICIENT_BALANCE,
        "overloaded_error": ErrorCode.UPSTREAM_ERROR,
        "api_error": ErrorCode.UPSTREAM_ERROR,
        "server_error": ErrorCode.UPSTREAM_ERROR,
    }
)
"""`error.type` of the newer API, which sends no base_resp (reference/minimax.md 1.5)."""

_FAILED: Final = frozenset({500, 502, 503})
"""HTTP statuses of the provider's own failures: free, if the error is in the provider's format."""

_COPIED_MAX_BYTES: Final = 16 * 1024
"""Pieces up to this size are joined, which costs less than another write."""
_PLAN_WINDOW_S: Final = 5 * 60 * 60
"""Length of the plan window that 2056 reports as used up (reference/minimax.md section 3)."""
_LIVE: Final = "image-01-live"
_ACCEPT: Final = ("accept", "application/json")


class MiniMax:
    """The `minimax` provider."""

    result_hosts: Final = (
        "hailuo-image-algeng-data.oss-*.aliyuncs.com",  # full names: others may own similar buckets
        "hailuo-image-algeng-data-us.oss-*.aliyuncs.com",
        "*.bj.bcebos.com",
        "cdn.hailuoai.com",
    )
    """Hosts seen in its result links (reference/minimax.md 1.4)."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model (reference/minimax.md 1.2)."""
        is_live = model == _LIVE
        ratios = {ratio: size for ratio, size in PRESETS.items() if not (is_live and ratio == "21:9")}
        base = Capability(
            (AspectRatios(ratios),) if is_live else (AspectRatios(ratios), PIXELS),
            max_images_per_call=9,
            prompt_max_chars=PROMPT_MAX_CHARS,
            fields=OUTPUT | {domain_name for name, domain_name in FIELDS.items() if is_live or name != "style"},
        )
        return overridden(base, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """Builds the documented body. Fields that the job does not set are omitted."""
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        if plan.shape.pixels:
            body |= {"width": plan.shape.pixels.width, "height": plan.shape.pixels.height}
        elif plan.shape.aspect_ratio:
            body["aspect_ratio"] = plan.shape.aspect_ratio
        body["response_format"] = plan.delivery.value
        return build_post("/v1/image_generation", body, job, plan, secret)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Reads the images of a response. Raises: GatewayError with the response's error code."""
        return read_base_resp(reply, _open(reply), delivery)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Requests the quota page (reference/minimax.md 4.3)."""
        return ProviderRequest("GET", "/v1/token_plan/remains", (bearer(secret), _ACCEPT))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the quota page. It covers the account: it proves a balance, and may show when a window ends."""
        envelope = _open(reply)
        raise_refusal(reply, envelope)
        return read_quota(envelope)


def _open(reply: UpstreamResponse) -> UntrustedObject:
    envelope = parse_object(reply)
    raise_v2_error(reply, envelope)
    return envelope


def overridden(base: Capability, overrides: Mapping[str, int]) -> Capability:
    """Applies the operator's `capabilities`: limits by name, features as true or false."""
    declared = {domain_name: overrides[name] for name, domain_name in FIELDS.items() if name in overrides}
    taken, refused = (
        {domain_name for domain_name, flag in declared.items() if flag is wanted} for wanted in (True, False)
    )
    ratios = tuple(rule for rule in base.sizes if isinstance(rule, AspectRatios))
    has_pixels = overrides.get("exact_sizes", PIXELS in base.sizes)
    return replace(
        base,
        sizes=(*ratios, PIXELS) if has_pixels else ratios,
        max_images_per_call=overrides.get("max_images_per_call", base.max_images_per_call),
        supports_base64=bool(overrides.get("base64_response", base.supports_base64)),
        fields=(base.fields | taken) - refused,
    )


def build_post(path: str, body: dict[str, object], job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
    """Builds a call with the optional fields that the job sets.

    Large values are not copied: all calls of a job share the job's object.
    """
    if plan.images > 1:
        body["n"] = plan.images
    pieces, set_fields = [msgspec.json.encode(body)[:-1]], job.fields
    for name, field in FIELDS.items() if set_fields else ():
        if field in set_fields:
            pieces += [b',"%b":' % name.encode(), *_encode_field(job, field)]
    pieces.append(b"}")
    headers = (bearer(secret), ("content-type", "application/json"), _ACCEPT)
    return ProviderRequest("POST", path, headers, _joined(pieces))


def _encode_field(job: ImageJob, field: str) -> list[bytes]:
    if field == "seed":
        return [msgspec.json.encode(job.seed)]
    if field in job.options:
        return [job.options[field]]
    pieces = []
    for image in job.inputs:
        pieces += [b',{"type":"%b","image_file":' % image.role.value.encode(), image.link, b"}"]
    return [b"[" + pieces[0][1:], *pieces[1:], b"]"]


def _joined(pieces: list[bytes]) -> tuple[bytes, ...]:
    """Joins small pieces."""
    joined = [b""]
    for piece in pieces:
        if len(piece) > _COPIED_MAX_BYTES:
            joined += [piece, b""]
        else:
            joined[-1] += piece
    return tuple(piece for piece in joined if piece)


def raise_v2_error(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the newer API's `{"type": "error", "error": {"type", "message", "http_code"}, "request_id"}`.

    Other gateways send parts of it with the same types, so only the complete form is the provider's own error.
    """
    error = envelope.inner("error")
    kind, text = error.text("type"), error.text("message") or envelope.text("error")
    stated = error.integer("http_code")
    if not (kind or text or stated):
        return
    detail, named = f"{kind}: {text}", NEWER_TYPES.get(kind)
    has_status = 400 <= reply.status == stated and bool(error.text("http_code"))  # the API sends a string
    if has_status and envelope.text("type") == "error" and envelope.text("request_id"):
        error_code = named or (ErrorCode.UPSTREAM_ERROR if reply.status in _FAILED else None)
        is_unknown = STATUS_ERRORS.get(reply.status) is ErrorCode.UPSTREAM_TIMEOUT  # takes precedence over the type
        raise refusal(error_code, detail, text, reply) if error_code and not is_unknown else http_error(reply, detail)
    if envelope.inner("base_resp").integer("status_code"):
        return
    if stated:  # the headers belong to the proxy's own status
        status = stated if 200 <= reply.status < 300 else reply.status
        reply = UpstreamResponse(status, reply.body, reply.retry_after_s, sent=reply.sent)
    raise word_error(named, detail, text, reply)


def raise_refusal(reply: UpstreamResponse, envelope: UntrustedObject) -> int | None:
    """Steps 4 and 5 of the order of checks: raises the error of a code or HTTP status. Returns: the code, 0 or None."""
    base_resp = envelope.inner("base_resp")
    code = base_resp.integer("status_code")
    if code:
        raise code_error(code, base_resp.text("status_msg"), reply)
    if not 200 <= reply.status < 300:
        raise http_error(reply, base_resp.text("status_msg"))
    return code


def read_base_resp(reply: UpstreamResponse, envelope: UntrustedObject, delivery: ResponseFormat) -> ImageReply:
    """Reads the images: steps 4 to 8 of the order of checks (reference/minimax.md section 8)."""
    code = raise_refusal(reply, envelope)
    images, metadata = read_images(envelope.inner("data"), delivery), envelope.inner("metadata")
    if images:
        return ImageReply(images, envelope.text("id"), metadata.integer("failed_count"))
    if metadata.integer("success_count") == 0 and (metadata.integer("failed_count") or 0) > 0:
        raise GatewayError(ErrorCode.CONTENT_MODERATED)
    if code is None:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "neither base_resp nor images")
    if (metadata.integer("success_count") or 0) > 0 or has_images(envelope):
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "images in an unknown format")
    raise GatewayError(ErrorCode.EMPTY_RESPONSE)


def code_error(code: int, text: str, reply: UpstreamResponse) -> GatewayError:
    """Builds the error of a provider code. An unknown code is UPSTREAM_ERROR and never affects a key."""
    error_code = CODES.get(code, ErrorCode.UPSTREAM_ERROR)
    cooldown_s = _PLAN_WINDOW_S if error_code is ErrorCode.QUOTA_EXHAUSTED_PLAN else None
    return refusal(error_code, f"{code} {text}".strip(), text, reply, code, cooldown_s=cooldown_s)
