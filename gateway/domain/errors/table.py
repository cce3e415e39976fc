"""The error table, one row per code. This file holds the rows of upstream calls (reference/minimax.md section 3)."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from gateway.domain.errors.codes import (
    RATE,
    REQUEST,
    SERVER,
    CapacityHint,
    CooldownKind,
    ErrorCode,
    ErrorSpec,
    KeyState,
    Outcome,
    Retry,
    Scope,
)
from gateway.domain.errors.gateway_specs import OF_GATEWAY, OF_REQUESTS


def _content(code: str, message: str, *, param: str | None = "prompt", status: int = 400) -> ErrorSpec:
    """The upstream refused the caller's request: no key is to blame, and another key would not help."""
    return ErrorSpec(status, REQUEST, code, message, Outcome.REFUSED, param=param)


def _busy(pause_s: int, pause_max_s: int, lowers: CapacityHint = CapacityHint.NOTHING) -> ErrorSpec:
    """The account is busy: put it on cooldown and use another one."""
    return ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "The image service is at its rate limit. Please try again shortly.",
        Outcome.REFUSED,
        Retry.FREELY,
        Scope.ACCOUNT,
        CooldownKind.SECONDS,
        pause_s,
        pause_max_s,
        KeyState.COOLING,
        retry_after_s=pause_s,
        lowers=lowers,
    )


def _spent(scope: Scope, pause: CooldownKind, pause_s: int = 0) -> ErrorSpec:
    """A quota window is used up: cooldown until the window ends."""
    return _unavailable(scope, pause, pause_s, KeyState.COOLING)


def _unavailable(scope: Scope, pause: CooldownKind, pause_s: int, state: KeyState) -> ErrorSpec:
    """The operator's provider key does not work: the call is retried with another key, or the caller gets 503."""
    return ErrorSpec(
        503,
        SERVER,
        "upstream_unavailable",
        "The image service is temporarily unavailable.",
        Outcome.REFUSED,
        Retry.FREELY,
        scope,
        pause,
        pause_s,
        state=state,
        retry_after_s=60,
    )


def _bare(status: int, code: str, scope: Scope, *, asks_page: bool = False, delay_s: float = 0.0) -> ErrorSpec:
    """Refused without the provider's own error code: try another key, without a cooldown."""
    return ErrorSpec(
        status,
        RATE if status == 429 else SERVER,
        code,
        "The image service refused the request without giving a reason.",
        Outcome.REFUSED,
        Retry.FREELY,
        scope,
        is_bare=True,
        asks_page=asks_page,
        delay_s=delay_s,
    )


def _upstream(status: int, code: str, message: str, outcome: Outcome, retry: Retry = Retry.NEVER) -> ErrorSpec:
    return ErrorSpec(status, SERVER, code, message, outcome, retry, Scope.KEY, trips_breaker=True)


_DEAD_PAUSE_S: Final = 15 * 60
"""Seconds after which a rejected key is tried again: within 10 to 30 minutes (reference/minimax.md section 3)."""
_HOUR_S: Final = 60 * 60
_RATE_LIMITED_DELAY_S: Final = 1.0
"""Seconds. A bare 429 delays only the request that received it."""
_UNKNOWN_OUTCOME: Final = "It may have been processed, so it was not retried."

ERROR_SPECS: Final[Mapping[ErrorCode, ErrorSpec]] = MappingProxyType(
    {
        **OF_REQUESTS,
        ErrorCode.CONTENT_INPUT: _content(
            "content_policy_violation", "Your request was rejected: the prompt was judged unsafe by the safety system."
        ),
        ErrorCode.CONTENT_OUTPUT: _content(
            "content_policy_violation",
            "Your request was rejected: the generated images were judged unsafe by the safety system.",
        ),
        ErrorCode.CONTENT_MODERATED: replace(
            _content(
                "content_policy_violation", "Your request was rejected: all images were withheld by the safety system."
            ),
            withholds_images=True,
        ),
        ErrorCode.INVALID_PROMPT: _content(
            "invalid_prompt", "The prompt contains too many invisible or unreadable characters. Remove them."
        ),
        ErrorCode.PROMPT_TOO_LONG: _content("string_above_max_length", "The prompt is too long for this model."),
        ErrorCode.UPSTREAM_REJECTED: _content(
            "invalid_value", "The image service does not accept the parameters of this request.", param=None
        ),
        ErrorCode.UPSTREAM_BODY_TOO_LARGE: _content(
            "request_too_large", "The request is too large for the image service.", param=None, status=413
        ),
        ErrorCode.REQUEST_BLOCKED: _content(
            "request_blocked",
            "The image service refuses this request with every key, without a reason. Its gateway or firewall "
            "probably blocks the prompt or a parameter. Change them and retry.",
            param=None,
        ),
        ErrorCode.BARE_UNAUTHORIZED: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        ErrorCode.BARE_PAYMENT_REQUIRED: _bare(503, "upstream_unavailable", Scope.ACCOUNT, asks_page=True),
        ErrorCode.BARE_FORBIDDEN: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        ErrorCode.BARE_RATE_LIMITED: _bare(429, "rate_limit_exceeded", Scope.ACCOUNT, delay_s=_RATE_LIMITED_DELAY_S),
        ErrorCode.BARE_REFUSAL: _bare(502, "upstream_error", Scope.KEY),
        ErrorCode.MODEL_DENIED_IN_TEXT: _bare(503, "upstream_unavailable", Scope.ACCOUNT),
        ErrorCode.KEY_INVALID: _unavailable(Scope.KEY, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED),
        ErrorCode.ACCOUNT_UNVERIFIED: _unavailable(
            Scope.ACCOUNT, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED
        ),
        ErrorCode.KEY_MODEL_DENIED: _unavailable(
            Scope.MODEL, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED
        ),
        ErrorCode.IP_DENIED: _unavailable(Scope.UPSTREAM, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED),
        ErrorCode.INSUFFICIENT_BALANCE: _unavailable(
            Scope.ACCOUNT, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED
        ),
        ErrorCode.KEY_LIMIT_REACHED: _unavailable(Scope.KEY, CooldownKind.SECONDS, _DEAD_PAUSE_S, KeyState.QUARANTINED),
        ErrorCode.ACCOUNT_RATE_LIMITED: _busy(15, 60, CapacityHint.RATE),
        ErrorCode.ACCOUNT_TOKEN_LIMITED: _busy(60, 0),
        ErrorCode.ACCOUNT_CONNECTION_LIMITED: _busy(10, 15, CapacityHint.CONCURRENCY),
        ErrorCode.ACCOUNT_GROWTH_LIMITED: _busy(20, 30, CapacityHint.GROWTH),
        ErrorCode.QUOTA_EXHAUSTED_PLAN: _spent(Scope.ACCOUNT, CooldownKind.SECONDS, _HOUR_S),
        ErrorCode.QUOTA_EXHAUSTED_DAILY: _spent(Scope.ACCOUNT, CooldownKind.DAY_END),
        ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR: _spent(Scope.KEY, CooldownKind.SECONDS, _HOUR_S),
        ErrorCode.QUOTA_EXHAUSTED_KEY_DAY: _spent(Scope.KEY, CooldownKind.DAY_END),
        ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH: _spent(Scope.KEY, CooldownKind.MONTH_END),
        ErrorCode.UPSTREAM_ERROR: _upstream(
            502, "upstream_error", "The image service failed to process the request.", Outcome.REFUSED, Retry.ONCE
        ),
        ErrorCode.UNEXPECTED_RESPONSE: _upstream(
            502, "upstream_error", "The image service returned an unexpected response.", Outcome.REFUSED
        ),
        ErrorCode.MODEL_UNAVAILABLE: ErrorSpec(
            503,
            SERVER,
            "upstream_unavailable",
            "The image service is temporarily unavailable.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
            CooldownKind.SECONDS,
            30,
            60,
            KeyState.COOLING,
            retry_after_s=30,
        ),
        ErrorCode.UPSTREAM_UNSUPPORTED: ErrorSpec(
            502,
            SERVER,
            "upstream_error",
            "The image service does not support this operation.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
        ),
        ErrorCode.EMPTY_RESPONSE: _upstream(
            502, "upstream_error", "The image service responded without images.", Outcome.REFUSED, Retry.ONCE
        ),
        ErrorCode.UPSTREAM_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service timed out. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        ErrorCode.CONNECT_FAILED: ErrorSpec(
            503,
            SERVER,
            "upstream_unavailable",
            "The image service is unreachable.",
            Outcome.NOT_SENT,
            Retry.ONCE,
            Scope.UPSTREAM,
            trips_breaker=True,
        ),
        ErrorCode.NOT_SENT: replace(
            _upstream(502, "upstream_error", "The request could not be sent upstream.", Outcome.NOT_SENT),
            trips_breaker=False,
        ),
        ErrorCode.READ_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service did not respond in time. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        ErrorCode.CONNECTION_LOST: _upstream(
            502, "upstream_error", f"The connection to the image service broke. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        ErrorCode.INVALID_RESPONSE: _upstream(
            502, "upstream_error", f"The image service's response is invalid. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        ErrorCode.RESPONSE_TOO_LARGE: _upstream(
            502, "upstream_error", f"The image service's response is too large. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        ErrorCode.DOWNLOAD_FAILED: replace(
            _upstream(
                502,
                "upstream_error",
                "The images were generated but could not be downloaded.",
                Outcome.DELIVERED,
            ),
            trips_breaker=False,
        ),
        **OF_GATEWAY,
    }
)
