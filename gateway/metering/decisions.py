"""What admit.lua answers, and what of it the caller is told."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.domain.billing import Usage, usd
from gateway.domain.errors import Fault, GatewayError
from gateway.domain.tenants import Caller, Rate, Rates

_WORDS: Final = {
    "requests_per_minute": "requests per minute",
    "images_per_minute": "images per minute",
    "concurrency": "requests at once",
    "recent_requests": "open requests and those of the last 15 minutes",
    "records_per_day": "recorded requests per day",
    "images_per_day": "images per day",
    "images_per_month": "images per month",
    "usd_micros_per_month": "US dollars per month",
}
_BUSY_RETRY_S: Final = 2.0
"""When one of the requests under way ends is not known; images take seconds."""


class Used(msgspec.Struct, frozen=True):
    """Counters of one scope."""

    requests_last_minute: int
    images_last_minute: int
    concurrency: int
    images_today: int
    images_this_month: int
    usd_micros_this_month: int
    open: int


class Verdict(msgspec.Struct, frozen=True):
    """admit.lua's answer; see there."""

    verdict: str
    scope: str = ""
    limit: str = ""
    allowed: int = 0
    used_of_limit: int = msgspec.field(default=0, name="taken")
    asked: int = 0
    frees_at_s: int = 0
    now_s: int = 0
    is_final: bool = False
    requests: tuple[int, int, int] | None = None
    images: tuple[int, int, int] | None = None
    used: Used | None = None


def rates_of(verdict: Verdict) -> Rates:
    return Rates(_rate(verdict.requests), _rate(verdict.images))


def usage_of(verdict: Verdict) -> Usage | None:
    used = verdict.used
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


def gateway_error(verdict: Verdict, caller: Caller) -> GatewayError:
    """The refusal as the caller is told it: which limit, how it stands, when it frees."""
    if verdict.verdict == "unknown":
        return GatewayError(Fault.INVALID_API_KEY)
    rates, wait_s = rates_of(verdict), _wait_s(verdict)
    if verdict.verdict == "quota":
        text = _too_large_text(verdict, caller) if verdict.is_final else _quota_text(verdict, caller)
        return GatewayError(Fault.QUOTA_EXHAUSTED, text, retry_after_s=wait_s, rates=rates)
    if verdict.is_final:
        return GatewayError(Fault.RATE_EXCEEDED_BY_ONE, _too_large_text(verdict, caller), rates=rates)
    return GatewayError(Fault.RATE_LIMITED, _rate_text(verdict, caller), retry_after_s=wait_s, rates=rates)


def _rate(found: tuple[int, int, int] | None) -> Rate | None:
    if found is None:
        return None
    allowed, used, reset_s = found
    return Rate(allowed, max(0, allowed - used), reset_s)


def _wait_s(verdict: Verdict) -> float:
    return verdict.frees_at_s - verdict.now_s if verdict.frees_at_s else _BUSY_RETRY_S


def _rate_text(verdict: Verdict, caller: Caller) -> str:
    text = f"Rate limit reached for {_WORDS[verdict.limit]} {_whose(verdict, caller)}: {_standing(verdict)}."
    if not verdict.frees_at_s:
        return f"{text} It frees when a request that is under way ends. Please try again in {_BUSY_RETRY_S:.0f} s."
    return f"{text} It frees at {_moment(verdict.frees_at_s)}. Please try again in {_wait_s(verdict):.0f} s."


def _too_large_text(verdict: Verdict, caller: Caller) -> str:
    """Of what no waiting mends: more than is ever allowed at once, or anything where nothing is allowed."""
    standing = f"{_WORDS[verdict.limit]} {_whose(verdict, caller)}: {_standing(verdict)}"
    if not verdict.allowed:
        return f"Nothing is allowed for {standing}. Have the limit raised."
    return f"Request too large for {standing}. Waiting does not help: ask for less, or have the limit raised."


def _quota_text(verdict: Verdict, caller: Caller) -> str:
    return (
        f"Quota exceeded for {_WORDS[verdict.limit]} {_whose(verdict, caller)}: {_standing(verdict)}. "
        f"It resets at {_moment(verdict.frees_at_s)}."
    )


def _whose(verdict: Verdict, caller: Caller) -> str:
    return f"of key '{caller.key.id}'" if verdict.scope == "key" else f"of tenant '{caller.tenant.name}'"


def _standing(verdict: Verdict) -> str:
    amounts = (verdict.allowed, verdict.used_of_limit, verdict.asked)
    is_money = verdict.limit == "usd_micros_per_month"
    limit, used, asked = (usd(amount) if is_money else str(amount) for amount in amounts)
    return f"limit {limit}, used {used}, requested {asked}"


def _moment(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
