"""The kinds of rows of the error table: each function returns the value of an error code, and its consequences."""

from dataclasses import replace
from typing import Final

from gateway.domain.errors.spec import CapacityHint, CooldownKind, ErrorSpec, KeyState, Outcome, Retry, Scope

_REQUEST, RATE, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"
"""OpenAI's types of errors."""
CODES = {429: "rate_limit_exceeded", 502: "upstream_error", 503: "upstream_unavailable", 504: "upstream_timeout"}
"""The `code` of an upstream's error, by status."""
BUSY: Final = "The image service is at its rate limit. Please try again shortly."
_QUARANTINE_S: Final = 15 * 60
"""Seconds after which a rejected key is tried again: within 10 to 30 minutes (reference/minimax.md section 3)."""

Row = tuple[str, ErrorSpec]  # the value of an error code, and its consequences


def caller(label: str, status: int, message: str, code: str | None = "", *, param: str | None = None) -> Row:
    """An error in the request, detected by the gateway: nothing was sent upstream. The default `code` is the label."""
    return label, ErrorSpec(status, _REQUEST, label if code == "" else code, message, param=param, shows_detail=True)


def limit(label: str, message: str, retry_after_s: int = 10, *, shows_detail: bool = True) -> Row:
    return label, ErrorSpec(429, RATE, CODES[429], message, shows_detail=shows_detail, retry_after_s=retry_after_s)


def permanent_limit(label: str, kind: str, code: str, message: str) -> Row:
    return label, ErrorSpec(429, kind, code, message, shows_detail=True, is_permanent=True)


def gateway(
    label: str,
    message: str,
    status: int = 503,
    code: str = "gateway_unavailable",
    outcome: Outcome = Outcome.NOT_SENT,
    *,
    retry_after_s: int = 10,
) -> Row:
    """A reason for which the gateway cannot serve a request."""
    return label, ErrorSpec(status, _SERVER, code, message, outcome, retry_after_s=retry_after_s)


def content(label: str, message: str, code: str = "", *, param: str | None = "prompt", status: int = 400) -> Row:
    """The upstream refused the caller's request: no key is to blame, and another key would not help."""
    return label, ErrorSpec(status, _REQUEST, code or label, message, Outcome.REFUSED, param=param)


def unsafe(label: str, reason: str, *, withholds_images: bool = False) -> Row:
    # LiteLLM recognises a refusal by the words before the colon.
    message = f"Your request was rejected as a result of the safety system: {reason}."
    _, spec = content(label, message, "content_policy_violation")
    return label, replace(spec, withholds_images=withholds_images)


def refused(status: int, message: str, scope: Scope) -> ErrorSpec:
    """The upstream refused the call for the sake of one key, account or upstream: another one may serve it."""
    kind = RATE if status == 429 else _SERVER
    return ErrorSpec(status, kind, CODES[status], message, Outcome.REFUSED, Retry.FREELY, scope)


def bare(label: str, status: int, scope: Scope, *, asks_page: bool = False, delay_s: float = 0.0) -> Row:
    """Refused without the provider's own error code: try another key, without a cooldown."""
    spec = refused(status, "The image service refused the request without giving a reason.", scope)
    return label, replace(spec, is_bare=True, asks_page=asks_page, delay_s=delay_s)


def cooled(
    label: str, scope: Scope, pause: CooldownKind, pause_s: int = 0, pause_max_s: int = 0, *, retry_after_s: int = 59
) -> Row:
    """The operator's provider key cannot be used for a time: another one is tried, or the caller gets 503."""
    spec = refused(503, "The image service is temporarily unavailable.", scope)
    spec = replace(spec, state=KeyState.COOLING, retry_after_s=retry_after_s)
    return label, replace(spec, pause=pause, pause_s=pause_s, pause_max_s=pause_max_s)


def quarantined(label: str, scope: Scope) -> Row:
    _, spec = cooled(label, scope, CooldownKind.SECONDS, _QUARANTINE_S)
    return label, replace(spec, state=KeyState.QUARANTINED)


def busy(label: str, pause_s: int, pause_max_s: int, lowers: CapacityHint = CapacityHint.NOTHING) -> Row:
    """The account is busy: put it on cooldown and use another one."""
    _, spec = cooled(label, Scope.ACCOUNT, CooldownKind.SECONDS, pause_s, pause_max_s, retry_after_s=pause_s)
    return label, replace(spec, status=429, type=RATE, code=CODES[429], message=BUSY, lowers=lowers)


def failed(
    label: str, status: int, message: str, outcome: Outcome, retry: Retry = Retry.NEVER, scope: Scope = Scope.KEY
) -> Row:
    return label, ErrorSpec(status, _SERVER, CODES[status], message, outcome, retry, scope, trips_breaker=True)


def unjudged(label: str, message: str, outcome: Outcome) -> Row:
    """A call failed for a reason that says nothing of the upstream's health."""
    return label, ErrorSpec(502, _SERVER, CODES[502], message, outcome, scope=Scope.KEY)


def unknown(label: str, status: int, message: str, *, is_judged: bool = True) -> Row:
    """The call may have been processed. Unless it is judged, it says nothing of the upstream's health."""
    text = f"{message} It may have been processed, so it was not retried."
    _, spec = failed(label, status, text, Outcome.UNKNOWN)
    return label, replace(spec, trips_breaker=is_judged)
