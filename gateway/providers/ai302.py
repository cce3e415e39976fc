"""302.AI, api.302.ai: MiniMax's API on another host, with its own errors (reference/minimax.md section 5)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.domain.accounts import Secret
from gateway.domain.catalog import AspectRatios, Capability
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ResponseFormat
from gateway.providers.error_texts import refusal, word_error
from gateway.providers.minimax import (
    OUTPUT,
    PRESETS,
    PROMPT_MAX_CHARS,
    build_post,
    overridden,
    raise_refusal,
    raise_v2_error,
    read_base_resp,
)
from gateway.providers.protocol import KeyCheck, ProviderRequest, bearer
from gateway.providers.replies import UntrustedObject, UpstreamResponse, parse_object

ERR_CODES: Final[Mapping[int, ErrorCode]] = MappingProxyType(
    {
        # The texts of 302.AI's own user interface.
        -10001: ErrorCode.KEY_INVALID,
        -10002: ErrorCode.KEY_INVALID,
        -10003: ErrorCode.UPSTREAM_ERROR,
        -10004: ErrorCode.INSUFFICIENT_BALANCE,
        -10005: ErrorCode.KEY_INVALID,
        -10006: ErrorCode.KEY_LIMIT_REACHED,
        -10007: ErrorCode.QUOTA_EXHAUSTED_KEY_DAY,
        -10008: ErrorCode.MODEL_UNAVAILABLE,
        -10009: ErrorCode.UPSTREAM_UNSUPPORTED,
        -10010: ErrorCode.UPSTREAM_UNSUPPORTED,
        -10011: ErrorCode.UPSTREAM_REJECTED,
        -10012: ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR,
        -10013: ErrorCode.KEY_MODEL_DENIED,
        -10014: ErrorCode.IP_DENIED,
        -10015: ErrorCode.UPSTREAM_REJECTED,
        -10016: ErrorCode.UPSTREAM_REJECTED,
        -10017: ErrorCode.UPSTREAM_REJECTED,
        -10018: ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH,
        -1024: ErrorCode.UPSTREAM_TIMEOUT,
        # Local to its applications.
        -99: ErrorCode.UPSTREAM_ERROR,
        -100: ErrorCode.UPSTREAM_ERROR,
        -101: ErrorCode.UPSTREAM_ERROR,
    }
)
"""`error.err_code` to error code (reference/minimax.md 5.3)."""

CODE_WORDS: Final[Mapping[str, ErrorCode]] = MappingProxyType(
    {
        "InvalidParameter": ErrorCode.UPSTREAM_REJECTED,
        "MissingParameter": ErrorCode.UPSTREAM_REJECTED,
        "Unauthorized": ErrorCode.BARE_UNAUTHORIZED,
        "RateLimitExceeded": ErrorCode.BARE_RATE_LIMITED,
        "InsufficientBalance": ErrorCode.BARE_PAYMENT_REQUIRED,
        "InternalError": ErrorCode.UPSTREAM_ERROR,
    }
)
"""`code` of the newer schema (reference/minimax.md 5.3, shape 2). Other gateways use the same words."""


class Ai302:
    """The `302ai` provider."""

    result_hosts: Final = ("file.302ai.cn", "file.302.ai")
    """Hosts to which it copies results (reference/minimax.md 5.1)."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every model is alike
        """Declares documented fields only. Others, such as `n`, `seed` and references, may not pass through."""
        base = Capability(
            (AspectRatios(PRESETS),),
            prompt_max_chars=PROMPT_MAX_CHARS,
            supports_base64=False,
            fields=OUTPUT | {"minimax.prompt_optimizer"},
        )
        return overridden(base, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """Builds a body of the five required fields and the operator's declared ones.

        Declared pixels replace `aspect_ratio`, which would take precedence.
        """
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        if plan.shape.pixels:
            body |= {"width": plan.shape.pixels.width, "height": plan.shape.pixels.height}
        else:
            body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        body |= {"response_format": plan.delivery.value, "prompt_optimizer": False}
        return build_post("/minimaxi/v1/image_generation", body, job, plan, secret)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Reads the images of a response. Raises: GatewayError with the response's error code."""
        return read_base_resp(reply, _open(reply), delivery)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Requests the list of models. The balance page needs a key with management rights (5.2, 5.4)."""
        return ProviderRequest("GET", "/v1/models", (bearer(secret), ("accept", "application/json")))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Accepts any list of models: the key is valid. The balance stays unknown."""
        envelope = _open(reply)
        raise_refusal(reply, envelope)
        if not isinstance(envelope.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()


def _open(reply: UpstreamResponse) -> UntrustedObject:
    """Parses the response. Raises: GatewayError if it has one of the three error formats."""
    envelope = parse_object(reply)
    _raise_own_error(reply, envelope)
    raise_v2_error(reply, envelope)
    _raise_word(reply, envelope)
    return envelope


def _raise_own_error(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    for holder in (envelope.inner("error"), envelope.inner("data").inner("error")):
        err_code = holder.integer("err_code")
        if err_code:
            error_code = ERR_CODES.get(err_code, ErrorCode.UPSTREAM_ERROR)
            raise refusal(error_code, f"{err_code} {holder.text('message')}", holder.text("message"), reply)


def _raise_word(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Skipped if there is a code of MiniMax's own, which is more precise."""
    word, text = envelope.text("code"), envelope.text("message")
    if word in CODE_WORDS and not envelope.inner("base_resp").integer("status_code"):
        raise word_error(CODE_WORDS[word], f"{word} {text}", text, reply)
