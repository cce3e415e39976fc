"""302.AI, api.302.ai: MiniMax's API behind another host, with errors of its own (reference/minimax.md section 5)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.domain.accounts import Secret
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, Capability, ImageJob, ImageReply, ResponseFormat
from gateway.domain.sizes import AspectRatios
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
"""`error.err_code` to fault (reference/minimax.md 5.3)."""

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
"""`code` of the schema on its newer pages (reference/minimax.md 5.3, shape 2): words that other gateways write too."""


class Ai302:
    """The `302ai` provider."""

    result_hosts: Final = ("file.302ai.cn", "file.302.ai")
    """Where it re-hosts results (reference/minimax.md 5.1)."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every model is alike
        """Only what its page documents; `n`, `seed`, pixels, base64 and references are not known to pass through."""
        base = Capability(
            (AspectRatios(PRESETS),),
            prompt_max_chars=PROMPT_MAX_CHARS,
            answers_base64=False,
            fields=OUTPUT | {"minimax.prompt_optimizer"},
        )
        return overridden(base, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """The five fields that the page marks required; then what the operator has declared to pass through.

        Declared pixels stand in the place of `aspect_ratio`, which would win over them.
        """
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        if plan.shape.pixels:
            body |= {"width": plan.shape.pixels.width, "height": plan.shape.pixels.height}
        else:
            body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        body |= {"response_format": plan.delivery.value, "prompt_optimizer": False}
        return build_post("/minimaxi/v1/image_generation", body, job, plan, secret)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Raises: GatewayError with the error code of the reply."""
        return read_base_resp(reply, _open(reply), delivery)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The only free page that takes every key; the balance page needs a key with management rights (5.2, 5.4)."""
        return ProviderRequest("GET", "/v1/models", (bearer(secret), ("accept", "application/json")))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """A list of models shows that the key is known, and nothing of the balance."""
        envelope = _open(reply)
        raise_refusal(reply, envelope)
        if not isinstance(envelope.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()


def _open(reply: UpstreamResponse) -> UntrustedObject:
    """The reply, if it holds none of the three forms of error."""
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
    """MiniMax's own code, if there is one, says more."""
    word, text = envelope.text("code"), envelope.text("message")
    if word in CODE_WORDS and not envelope.inner("base_resp").integer("status_code"):
        raise word_error(CODE_WORDS[word], f"{word} {text}", text, reply)
