"""The table: one row a fault. Here are those of calls to upstreams (reference/minimax.md section 3)."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from gateway.domain.errors.codes import (
    RATE,
    REQUEST,
    SERVER,
    Fault,
    Lowers,
    Outcome,
    Pause,
    Retry,
    Row,
    Scope,
    State,
)
from gateway.domain.errors.gateway_specs import OF_GATEWAY, OF_REQUESTS


def _content(code: str, message: str, *, param: str | None = "prompt", status: int = 400) -> Row:
    """The upstream refused what the caller asked: no key is to blame, no other key would help."""
    return Row(status, REQUEST, code, message, Outcome.REFUSED, param=param)


def _busy(pause_s: int, pause_max_s: int, lowers: Lowers = Lowers.NOTHING) -> Row:
    """The account is fine but busy: cool it and use another account."""
    return Row(
        429,
        RATE,
        "rate_limit_exceeded",
        "The image service is at its rate limit. Please try again shortly.",
        Outcome.REFUSED,
        Retry.FREELY,
        Scope.ACCOUNT,
        Pause.SECONDS,
        pause_s,
        pause_max_s,
        State.COOLING,
        retry_after_s=pause_s,
        lowers=lowers,
    )


def _spent(scope: Scope, pause: Pause, pause_s: int = 0) -> Row:
    """A quota window is used up: cool until the window ends."""
    return _unavailable(scope, pause, pause_s, State.COOLING)


def _unavailable(scope: Scope, pause: Pause, pause_s: int, state: State) -> Row:
    """The organisation's own credential is at fault: the caller sees another key's picture, or 503."""
    return Row(
        503,
        SERVER,
        "upstream_unavailable",
        "The image service is not available at the moment.",
        Outcome.REFUSED,
        Retry.FREELY,
        scope,
        pause,
        pause_s,
        state=state,
        retry_after_s=60,
    )


def _bare(status: int, code: str, scope: Scope, *, asks_page: bool = False, delay_s: float = 0.0) -> Row:
    """Refused without the provider's own error code: try another key, and blame none."""
    return Row(
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


def _upstream(status: int, code: str, message: str, outcome: Outcome, retry: Retry = Retry.NEVER) -> Row:
    return Row(status, SERVER, code, message, outcome, retry, Scope.KEY, ails_upstream=True)


_DEAD_PAUSE_S: Final = 15 * 60
"""A dead or broke key is tried again after this long: inside the 10 to 30 minutes of reference/minimax.md section 3."""
_HOUR_S: Final = 60 * 60
_RATE_LIMITED_DELAY_S: Final = 1.0
"""A bare 429 slows down the request that met it, and no other."""
_UNKNOWN_OUTCOME: Final = "It may have been processed, so it was not sent again."

TABLE: Final[Mapping[Fault, Row]] = MappingProxyType(
    {
        **OF_REQUESTS,
        Fault.CONTENT_INPUT: _content(
            "content_policy_violation", "Your request was rejected: the prompt was judged unsafe by the safety system."
        ),
        Fault.CONTENT_OUTPUT: _content(
            "content_policy_violation",
            "Your request was rejected: the generated images were judged unsafe by the safety system.",
        ),
        Fault.CONTENT_WITHHELD: replace(
            _content(
                "content_policy_violation", "Your request was rejected: all images were withheld by the safety system."
            ),
            withholds_images=True,
        ),
        Fault.PROMPT_UNREADABLE: _content(
            "invalid_prompt", "The prompt holds too many invisible or unreadable characters."
        ),
        Fault.PROMPT_TOO_LONG: _content("string_above_max_length", "The prompt is too long for this model."),
        Fault.UPSTREAM_REJECTED: _content(
            "invalid_value", "The image service does not accept the parameters of this request.", param=None
        ),
        Fault.UPSTREAM_BODY_TOO_LARGE: _content(
            "request_too_large", "The request is too large for the image service.", param=None, status=413
        ),
        Fault.REQUEST_BLOCKED: _content(
            "request_blocked",
            "The image service refuses this request with every key, without giving a reason. Its gateway or firewall "
            "probably blocks the prompt or a parameter: change them.",
            param=None,
        ),
        Fault.BARE_UNAUTHORIZED: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        Fault.BARE_PAYMENT_REQUIRED: _bare(503, "upstream_unavailable", Scope.ACCOUNT, asks_page=True),
        Fault.BARE_FORBIDDEN: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        Fault.BARE_RATE_LIMITED: _bare(429, "rate_limit_exceeded", Scope.ACCOUNT, delay_s=_RATE_LIMITED_DELAY_S),
        Fault.BARE_REFUSAL: _bare(502, "upstream_error", Scope.KEY),
        Fault.MODEL_DENIED_IN_TEXT: _bare(503, "upstream_unavailable", Scope.ACCOUNT),
        Fault.KEY_INVALID: _unavailable(Scope.KEY, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_UNVERIFIED: _unavailable(Scope.ACCOUNT, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_MODEL_DENIED: _unavailable(Scope.MODEL, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.EGRESS_DENIED: _unavailable(Scope.UPSTREAM, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.BALANCE_EMPTY: _unavailable(Scope.ACCOUNT, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_LIMIT_REACHED: _unavailable(Scope.KEY, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.ACCOUNT_RATE_LIMITED: _busy(15, 60, Lowers.RATE),
        Fault.ACCOUNT_TOKEN_LIMITED: _busy(60, 0),
        Fault.ACCOUNT_CONNECTION_LIMITED: _busy(10, 15, Lowers.CONCURRENCY),
        Fault.ACCOUNT_GROWTH_LIMITED: _busy(20, 30, Lowers.GROWTH),
        Fault.WINDOW_SPENT: _spent(Scope.ACCOUNT, Pause.SECONDS, _HOUR_S),
        Fault.DAY_SPENT: _spent(Scope.ACCOUNT, Pause.DAY_END),
        Fault.KEY_HOUR_SPENT: _spent(Scope.KEY, Pause.SECONDS, _HOUR_S),
        Fault.KEY_DAY_SPENT: _spent(Scope.KEY, Pause.DAY_END),
        Fault.KEY_MONTH_SPENT: _spent(Scope.KEY, Pause.MONTH_END),
        Fault.UPSTREAM_ERROR: _upstream(
            502, "upstream_error", "The image service failed to process the request.", Outcome.REFUSED, Retry.ONCE
        ),
        Fault.UPSTREAM_MISPLACED: _upstream(
            502, "upstream_error", "The image service gave an unexpected answer.", Outcome.REFUSED
        ),
        Fault.UPSTREAM_NO_CHANNEL: Row(
            503,
            SERVER,
            "upstream_unavailable",
            "The image service is not available at the moment.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
            Pause.SECONDS,
            30,
            60,
            State.COOLING,
            retry_after_s=30,
        ),
        Fault.UPSTREAM_UNSUPPORTED: Row(
            502,
            SERVER,
            "upstream_error",
            "The image service does not offer this function.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
        ),
        Fault.UPSTREAM_EMPTY: _upstream(
            502, "upstream_error", "The image service answered without images.", Outcome.REFUSED, Retry.ONCE
        ),
        Fault.UPSTREAM_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service timed out. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.CONNECT_FAILED: Row(
            503,
            SERVER,
            "upstream_unavailable",
            "The image service cannot be reached at the moment.",
            Outcome.NOT_SENT,
            Retry.ONCE,
            Scope.UPSTREAM,
            ails_upstream=True,
        ),
        Fault.CALL_NOT_SENT: replace(
            _upstream(502, "upstream_error", "The request could not be sent to the image service.", Outcome.NOT_SENT),
            ails_upstream=False,
        ),
        Fault.READ_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service did not answer in time. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_LOST: _upstream(
            502, "upstream_error", f"The connection to the image service broke. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_UNREADABLE: _upstream(
            502, "upstream_error", f"The image service's answer is unreadable. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_TOO_LARGE: _upstream(
            502, "upstream_error", f"The image service's answer is too large. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.RESULT_LOST: replace(
            _upstream(
                502,
                "upstream_error",
                "The images were made but could not be fetched from their links.",
                Outcome.DELIVERED,
            ),
            ails_upstream=False,
        ),
        **OF_GATEWAY,
    }
)
