"""302.AI, api.302.ai: MiniMax's API on another host, with its own errors (reference/minimax.md section 5)."""

from collections.abc import Mapping
from typing import Final

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability
from gateway.domain.errors import ErrorCode
from gateway.domain.sizes import AspectRatios
from gateway.providers.error_texts import refusal
from gateway.providers.minimax import (
    OUTPUT,
    PRESETS,
    PROMPT_MAX_CHARS,
    MiniMax,
    overridden,
)
from gateway.providers.protocol import KeyCheck, ProviderRequest
from gateway.providers.replies import UntrustedObject, UpstreamResponse

ERR_CODES: Final[Mapping[int, ErrorCode]] = {
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
"""`error.err_code` to error code (reference/minimax.md 5.3)."""

CODE_WORDS: Final[Mapping[str, ErrorCode]] = {
    "InvalidParameter": ErrorCode.UPSTREAM_REJECTED,
    "MissingParameter": ErrorCode.UPSTREAM_REJECTED,
    "Unauthorized": ErrorCode.BARE_UNAUTHORIZED,
    "RateLimitExceeded": ErrorCode.BARE_RATE_LIMITED,
    "InsufficientBalance": ErrorCode.BARE_PAYMENT_REQUIRED,
    "InternalError": ErrorCode.UPSTREAM_ERROR,
}
"""`code` of the newer schema (reference/minimax.md 5.3, shape 2). Other gateways use the same words."""


class Ai302(MiniMax):
    """The `302ai` provider."""

    result_hosts = ("file.302ai.cn", "file.302.ai")
    """Hosts to which it copies results (reference/minimax.md 5.1)."""
    path = "/minimaxi/v1/image_generation"
    default_ratio = "1:1"
    required_fields: Mapping[str, object] = {"prompt_optimizer": False}
    key_check_path = "/v1/models"
    """The list of models. The balance page needs a key with management rights (5.2, 5.4)."""
    code_words = CODE_WORDS

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every model is alike
        """Declares documented fields only. Others, such as `n`, `seed` and references, may not pass through."""
        base = Capability(
            (AspectRatios(PRESETS),),
            prompt_max_chars=PROMPT_MAX_CHARS,
            supports_base64=False,
            fields=OUTPUT | {"minimax.prompt_optimizer"},
        )
        return overridden(base, overrides)

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        return self.read_second_check(reply)

    def build_second_check(self, secret: Secret) -> ProviderRequest | None:  # noqa: ARG002 - the protocol
        return None

    def raise_error(self, reply: UpstreamResponse, envelope: UntrustedObject) -> int | None:
        raise_err_code(reply, envelope)
        return super().raise_error(reply, envelope)


def raise_err_code(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the error that 302.AI itself states (reference/minimax.md 5.3, shape 1)."""
    for holder in (envelope.inner("error"), envelope.inner("data").inner("error")):
        if err_code := holder.integer("err_code"):
            error_code, text = ERR_CODES.get(err_code, ErrorCode.UPSTREAM_ERROR), holder.text("message")
            raise refusal(error_code, f"{err_code} {text}", text, reply)
