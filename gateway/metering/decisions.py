"""Admission decisions: the reply of admit.lua, and the error or rates derived from it."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.domain.billing import Usage, usd
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal, Rate, Rates

_WORDS: Final = {
    "requests_per_minute": "requests per minute",
    "images_per_minute": "images per minute",
    "concurrency": "concurrent requests",
    "recent_requests": "open requests and those of the last 15 minutes",
    "records_per_day": "recorded requests per day",
    "images_per_day": "images per day",
    "images_per_month": "images per month",
    "usd_micros_per_month": "US dollars per month",
}
_BUSY_RETRY_S: Final = 2.0
"""Retry-After when concurrency is exhausted. The end of the running requests is unknown; images take seconds."""


class ScopeUsage(msgspec.Struct, frozen=True):
    """Usage counters of one scope."""

    requests_last_minute: int
    images_last_minute: int
    concurrency: int
    images_today: int
    images_this_month: int
    usd_micros_this_month: int
    open: int


class AdmissionDecision(msgspec.Struct, frozen=True):
    """The reply of admit.lua; see its header."""

    decision: str
    scope: str = ""
    limit: str = ""
    allowed: int = 0
    used_of_limit: int = msgspec.field(default=0, name="taken")
    asked: int = 0
    frees_at_s: int = 0
    now_s: int = 0
    is_permanent: bool = False
    requests: tuple[int, int, int] | None = None
    images: tuple[int, int, int] | None = None
    used: ScopeUsage | None = None


def rates_of(decision: AdmissionDecision) -> Rates:
    return Rates(_rate(decision.requests), _rate(decision.images))


def usage_of(decision: AdmissionDecision) -> Usage | None:
    used = decision.used
    if used is None:
        return None
    return Usage(
        used.requests_last_minute,
        used.images_last_minute,
        used.concurrency,
        used.images_today,
        used.images_this_month,
        used.usd_micros_this_month,
        used.open,
    )


def gateway_error(decision: AdmissionDecision, caller: Principal) -> GatewayError:
    """Returns the error for a refusal: which limit, its usage and when capacity frees up."""
    if decision.decision == "unknown":
        return GatewayError(ErrorCode.INVALID_API_KEY)
    rates, wait_s = rates_of(decision), _wait_s(decision)
    if decision.decision == "quota":
        text = _too_large_text(decision, caller) if decision.is_permanent else _quota_text(decision, caller)
        return GatewayError(ErrorCode.QUOTA_EXHAUSTED, text, retry_after_s=wait_s, rates=rates)
    if decision.is_permanent:
        return GatewayError(ErrorCode.REQUEST_EXCEEDS_LIMIT, _too_large_text(decision, caller), rates=rates)
    return GatewayError(ErrorCode.RATE_LIMITED, _rate_text(decision, caller), retry_after_s=wait_s, rates=rates)


def _rate(found: tuple[int, int, int] | None) -> Rate | None:
    if found is None:
        return None
    allowed, used, reset_s = found
    return Rate(allowed, max(0, allowed - used), reset_s)


def _wait_s(decision: AdmissionDecision) -> float:
    return decision.frees_at_s - decision.now_s if decision.frees_at_s else _BUSY_RETRY_S


def _rate_text(decision: AdmissionDecision, caller: Principal) -> str:
    text = f"Rate limit reached for {_WORDS[decision.limit]} {_whose(decision, caller)}: {_standing(decision)}."
    if not decision.frees_at_s:
        return f"{text} It frees when a running request ends. Please try again in {_BUSY_RETRY_S:.0f} s."
    return f"{text} It frees at {_moment(decision.frees_at_s)}. Please try again in {_wait_s(decision):.0f} s."


def _too_large_text(decision: AdmissionDecision, caller: Principal) -> str:
    """Explains a refusal that waiting cannot fix: a request above a limit, or a limit of 0."""
    standing = f"{_WORDS[decision.limit]} {_whose(decision, caller)}: {_standing(decision)}"
    if not decision.allowed:
        return f"No usage is allowed for {standing}. Ask for a higher limit."
    return f"Request too large for {standing}. Waiting does not help: request less, or ask for a higher limit."


def _quota_text(decision: AdmissionDecision, caller: Principal) -> str:
    return (
        f"Quota exceeded for {_WORDS[decision.limit]} {_whose(decision, caller)}: {_standing(decision)}. "
        f"It resets at {_moment(decision.frees_at_s)}."
    )


def _whose(decision: AdmissionDecision, caller: Principal) -> str:
    return f"of key '{caller.key.id}'" if decision.scope == "key" else f"of tenant '{caller.tenant.name}'"


def _standing(decision: AdmissionDecision) -> str:
    amounts = (decision.allowed, decision.used_of_limit, decision.asked)
    is_money = decision.limit == "usd_micros_per_month"
    limit, used, asked = (usd(amount) if is_money else str(amount) for amount in amounts)
    return f"limit {limit}, used {used}, requested {asked}"


def _moment(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
