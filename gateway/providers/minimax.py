"""MiniMax's own API, api.minimax.io: `POST /v1/image_generation` (reference/minimax.md sections 1 to 4)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.pricing import PerImage, Rate
from gateway.domain.sizes import AspectRatios, SizeBounds
from gateway.providers.error_texts import refusal, word_error
from gateway.providers.minimax_key_check import read_quota
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest
from gateway.providers.replies import (
    STATUS_ERRORS,
    UntrustedObject,
    UpstreamResponse,
    http_error,
    parse_object,
    read_images,
)
from gateway.providers.stray_images import has_images, has_stray_images

PRESETS: Final[Mapping[str, Size]] = {
    "1:1": Size(1024, 1024),
    "16:9": Size(1280, 720),
    "4:3": Size(1152, 864),
    "3:2": Size(1248, 832),
    "2:3": Size(832, 1248),
    "3:4": Size(864, 1152),
    "9:16": Size(720, 1280),
    "21:9": Size(1344, 576),
}
"""Size of each `aspect_ratio` (reference/minimax.md 1.3)."""

PIXELS: Final = SizeBounds(512, 2048, 8)
"""`width` and `height` of image-01 (reference/minimax.md 1.2)."""

PROMPT_MAX_CHARS: Final = 1499

OUTPUT: Final = frozenset({"output_format.jpeg", "background.opaque"})
"""The only supported output (reference/minimax.md 1.4)."""

FIELDS: Final[Mapping[str, str]] = {
    "aigc_watermark": "minimax.aigc_watermark",
    "prompt_optimizer": "minimax.prompt_optimizer",
    "seed": "seed",
    "style": "minimax.style",
    "subject_reference": "input.character",
}
"""Optional body fields and their domain names, in the order in which they are sent."""

CHARACTER_EDIT: Final = EditRule(
    frozenset({Format.JPEG, Format.PNG}), image_max_bytes=10 * 1024 * 1024 - 1, is_character_only=True
)
"""An edit by `subject_reference`: one image of less than 10 MB, of which the model takes the person or figure.

The array has no documented limit, but the guide says one reference (reference/minimax.md 1.2).
"""

_CODES: Final = {
    ErrorCode.UPSTREAM_ERROR: (1000, 1024, 1033, 1013),  # 1013: the file and video pages only
    ErrorCode.UPSTREAM_TIMEOUT: (1001,),
    ErrorCode.ACCOUNT_RATE_LIMITED: (1002, 2046, 2047),  # 2046, 2047: third-party classifiers
    ErrorCode.KEY_INVALID: (1004, 2049),
    ErrorCode.INSUFFICIENT_BALANCE: (1008, 1_400_010_161),  # 1400010161: third-party classifiers
    ErrorCode.CONTENT_INPUT: (1026,),
    ErrorCode.CONTENT_OUTPUT: (1027,),
    ErrorCode.ACCOUNT_TOKEN_LIMITED: (1039,),
    ErrorCode.ACCOUNT_CONNECTION_LIMITED: (1041,),
    ErrorCode.INVALID_PROMPT: (1042,),
    ErrorCode.UNEXPECTED_RESPONSE: (1043, 1044, 20132, 2037, 2039, 2042, 2048, 2054),  # 2054: in no table found
    ErrorCode.UPSTREAM_REJECTED: (2013,),  # four cases; error_texts.py distinguishes them
    ErrorCode.ACCOUNT_GROWTH_LIMITED: (2045,),
    ErrorCode.QUOTA_EXHAUSTED_PLAN: (2056, 2067),  # 2067: third-party classifiers
    ErrorCode.QUOTA_EXHAUSTED_DAILY: (1028, 1030),  # MiniMax's CLI
    ErrorCode.ACCOUNT_UNVERIFIED: (2038,),  # MiniMax's MCP server
    ErrorCode.KEY_MODEL_DENIED: (2061,),  # MiniMax's CLI
}
"""Without a comment: the error page of the API documentation, English or Chinese."""

CODES: Final[Mapping[int, ErrorCode]] = {code: error_code for error_code, codes in _CODES.items() for code in codes}
"""`base_resp.status_code` to error code (reference/minimax.md section 3 has the source of each)."""

NEWER_TYPES: Final[Mapping[str, ErrorCode]] = {
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
"""`error.type` of the newer API, which sends no base_resp (reference/minimax.md 1.5)."""

_FAILED: Final = frozenset({500, 502, 503})
"""HTTP statuses of the provider's own failures: free, if the error is in the provider's format."""

_COPIED_MAX_BYTES: Final = 16 * 1024
"""Pieces up to this size are joined, which costs less than another write."""
_PLAN_WINDOW_S: Final = 5 * 60 * 60
"""Length of the plan window that 2056 reports as used up (reference/minimax.md section 3)."""
_ACCEPT: Final = ("accept", "application/json")
_MODELS_PATH: Final = "/v1/models"
"""The list of models (https://platform.minimax.io/docs/api-reference/models/openai/list-models)."""
_LIVE: Final = "image-01-live"
_RATES: Final[Mapping[str, Rate | None]] = {"image-01": PerImage(3_500), _LIVE: None}
"""Published prices, outside of mainland China (reference/minimax.md 4.2)."""
_REFERENCE: Final = FIELDS["subject_reference"]


class MiniMax:
    """The `minimax` provider."""

    base_url = ""
    """A key is valid in one region only."""
    result_hosts: tuple[str, ...] = (
        "hailuo-image-algeng-data.oss-*.aliyuncs.com",  # full names: others may own similar buckets
        "hailuo-image-algeng-data-us.oss-*.aliyuncs.com",
        "*.bj.bcebos.com",
        "cdn.hailuoai.com",
    )
    """Hosts seen in its result links (reference/minimax.md 1.4)."""
    path = "/v1/image_generation"
    default_ratio = ""
    required_fields: Mapping[str, object] = {}
    key_check_path = "/v1/token_plan/remains"
    """The quota page (reference/minimax.md 4.3)."""
    code_words: Mapping[str, ErrorCode] = {}
    """Error code by the word in `code`, where there is no code of MiniMax's, which is more precise."""

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        return {name: ModelFacts(self.capability(name, {}), rate) for name, rate in _RATES.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        return self.path, self.key_check_path, _MODELS_PATH

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
        """Builds the documented body. Optional fields that the job does not set are omitted.

        Large values are not copied: all calls of a job share the job's object.
        """
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        if plan.shape.pixels:  # `aspect_ratio` would take precedence
            body |= {"width": plan.shape.pixels.width, "height": plan.shape.pixels.height}
        elif aspect_ratio := plan.shape.aspect_ratio or self.default_ratio:
            body["aspect_ratio"] = aspect_ratio
        body |= {"response_format": plan.delivery.value, **self.required_fields}
        if plan.images > 1:
            body["n"] = plan.images
        pieces = [msgspec.json.encode(body)[:-1]]
        set_fields = job.fields | ({_REFERENCE} if job.inputs else frozenset())  # the image of an edit is one, too
        for name, field in FIELDS.items() if set_fields else ():
            if field in set_fields:
                pieces += [b',"%b":' % name.encode(), *_encode_field(job, field)]
        joined = [b""]
        for piece in (*pieces, b"}"):
            if len(piece) > _COPIED_MAX_BYTES:
                joined += [piece, b""]
            else:
                joined[-1] += piece
        headers = ("authorization", f"Bearer {secret.plaintext}"), ("content-type", "application/json"), _ACCEPT
        return ProviderRequest("POST", self.path, headers, tuple(filter(None, joined)))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Reads the images of a response, in the order of reference/minimax.md section 8.

        Raises: GatewayError with the response's error code, or INVALID_RESPONSE if images contradict it, or are in
        another place: they may have been billed.
        """
        envelope = UntrustedObject({})
        try:
            envelope = parse_object(reply)
            return self._read_images(reply, envelope, delivery)
        except GatewayError as error:
            is_success = error.error_code is ErrorCode.EMPTY_RESPONSE
            if error.row.outcome is Outcome.UNKNOWN or not has_stray_images(reply, envelope, is_success=is_success):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def _read_images(self, reply: UpstreamResponse, envelope: UntrustedObject, delivery: ResponseFormat) -> ImageReply:
        code = self.raise_error(reply, envelope)
        images, metadata = read_images(envelope.inner("data"), delivery), envelope.inner("metadata")
        failed = metadata.integer("failed_count")
        if images:
            return ImageReply(images, envelope.text("id"), failed)
        succeeded = metadata.integer("success_count")
        if succeeded == 0 and (failed or 0) > 0:
            raise GatewayError(ErrorCode.CONTENT_MODERATED)
        if code is None:
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "neither base_resp nor images")
        if (succeeded or 0) > 0 or has_images(envelope):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "images in an unknown format")
        raise GatewayError(ErrorCode.EMPTY_RESPONSE)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        return _build_page(self.key_check_path, secret)

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the quota page. It covers the account: it proves a balance, and may show when a window ends."""
        envelope = parse_object(reply)
        self.raise_error(reply, envelope)
        return read_quota(envelope)

    def build_second_check(self, secret: Secret) -> ProviderRequest | None:
        """The quota page belongs to plans, and may refuse a valid pay-as-you-go key (reference/minimax.md 4.3)."""
        return _build_page(_MODELS_PATH, secret)

    def read_second_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Accepts any list of models: the key is valid. The balance stays unknown."""
        envelope = parse_object(reply)
        self.raise_error(reply, envelope)
        if not isinstance(envelope.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()

    def raise_error(self, reply: UpstreamResponse, envelope: UntrustedObject) -> int | None:
        """Raises the error of a code or an HTTP status; an unknown code never affects a key. Returns: 0 or None."""
        raise_v2_error(reply, envelope)
        base_resp = envelope.inner("base_resp")
        code, text = base_resp.integer("status_code"), base_resp.text("status_msg")
        if code:
            error_code = CODES.get(code, ErrorCode.UPSTREAM_ERROR)
            cooldown_s = _PLAN_WINDOW_S if error_code is ErrorCode.QUOTA_EXHAUSTED_PLAN else None
            raise refusal(error_code, f"{code} {text}".strip(), text, reply, code, cooldown_s=cooldown_s)
        if self.code_words and (word := envelope.text("code")) in self.code_words:
            own_text = envelope.text("message")
            raise word_error(self.code_words[word], f"{word} {own_text}", own_text, reply)
        if not 200 <= reply.status < 300:
            raise http_error(reply, text)
        return code


def overridden(base: Capability, overrides: Mapping[str, int]) -> Capability:
    """Applies the operator's `capabilities`: limits by name, features as true or false."""
    taken, refused = ({FIELDS[name] for name in FIELDS if overrides.get(name) is flag} for flag in (True, False))
    ratios = tuple(rule for rule in base.sizes if isinstance(rule, AspectRatios))
    has_pixels = overrides.get("exact_sizes", PIXELS in base.sizes)
    fields = (base.fields | taken) - refused
    return replace(
        base,
        sizes=(*ratios, PIXELS) if has_pixels else ratios,
        max_images_per_call=overrides.get("max_images_per_call", base.max_images_per_call),
        supports_base64=bool(overrides.get("base64_response", base.supports_base64)),
        fields=fields,
        edits=CHARACTER_EDIT if _REFERENCE in fields else None,
    )


def _build_page(path: str, secret: Secret) -> ProviderRequest:
    return ProviderRequest("GET", path, (("authorization", f"Bearer {secret.plaintext}"), _ACCEPT))


def _encode_field(job: ImageJob, field: str) -> list[bytes]:
    if field == "seed":
        return [msgspec.json.encode(job.seed)]
    if field in job.options:
        return [job.options[field]]
    pieces = []
    for image in job.inputs:
        pieces += [b',{"type":"character","image_file":', image.link, b"}"]
    return [b"[" + pieces[0][1:], *pieces[1:], b"]"]


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
