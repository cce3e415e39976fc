"""Admission decisions: the reply of admit.lua and transfer.lua, and the error for what is not admitted."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.domain.billing import usd
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal, Rates
from gateway.domain.usage import Usage

_WORDS: Final = {
    "requests_per_minute": "requests per minute",
    "images_per_minute": "images per minute",
    "concurrency": "concurrent requests",
    "recent_requests": "open requests and those of the last 15 minutes",
    "records_per_day": "recorded requests per day",
    "joined_requests": "requests that wait for the same images",
    "idempotency_keys": "new idempotency keys",
    "images_per_day": "images per day",
    "images_per_month": "images per month",
    "usd_micros_per_month": "US dollars per month",
}
_BUSY_RETRY_S: Final = 2.0
"""Retry-After when concurrency is exhausted. The end of the running requests is unknown; images take seconds."""


class Order(msgspec.Struct, frozen=True):
    """The order that a request repeats; see repeats.lua."""

    state: str
    id: str = ""
    left_ms: int = 0


class RepeatedRequestError(GatewayError):
    """The request repeats an order, and was not admitted. `order` is the one to join."""

    def __init__(self, order: Order, rates: Rates) -> None:
        super().__init__(ErrorCode.ORDER_IN_PROGRESS, rates=rates)
        self.order = order


class UnclaimedLineError(GatewayError):
    """A line of a batch was not admitted: another process has claimed it, it has ended, or its batch is not running."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.ORDER_IN_PROGRESS)


class AdmissionDecision(msgspec.Struct, frozen=True):
    """The fields are described in the header of admit.lua."""

    decision: str
    price_since_s: int = 0
    scope: str = ""
    limit: str = ""
    allowed: int = 0
    taken: int = 0
    asked: int = 0
    frees_at_s: int = 0
    now_s: int = 0
    is_permanent: bool = False
    rates: Rates = Rates()
    used: Mapping[str, Usage] = MappingProxyType({})
    month_ends_s: int = 0
    order: Order | None = None
    has_events: bool = False


def gateway_error(decision: AdmissionDecision, caller: Principal) -> GatewayError:
    """Returns the error for a request that is not admitted: which limit, its usage and when capacity frees up."""
    if decision.decision == "unknown":
        return GatewayError(ErrorCode.INVALID_API_KEY)
    if decision.decision == "unclaimed":
        return UnclaimedLineError()
    if decision.order and decision.decision == "repeated":
        is_reused = decision.order.state == "reused"
        error = GatewayError(ErrorCode.IDEMPOTENCY_KEY_REUSED, rates=decision.rates)
        return error if is_reused else RepeatedRequestError(decision.order, decision.rates)
    owner = f"key '{caller.key.id}'" if decision.scope == "key" else f"tenant '{caller.tenant.current_name}'"
    written = usd if decision.limit == "usd_micros_per_month" else str
    allowed, used, asked = map(written, (decision.allowed, decision.taken, decision.asked))
    limit = f"{_WORDS[decision.limit]} of {owner}: limit {allowed}, used {used}, requested {asked}"
    frees_at = datetime.fromtimestamp(decision.frees_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    wait_s: float | None = decision.frees_at_s - decision.now_s if decision.frees_at_s else _BUSY_RETRY_S
    error_code = ErrorCode.QUOTA_EXHAUSTED if decision.decision == "quota" else ErrorCode.RATE_LIMITED
    if decision.is_permanent:
        text = f"Request too large for {limit}. Waiting does not help: request less, or ask for a higher limit."
        if not decision.allowed:
            text = f"No usage is allowed for {limit}. Ask for a higher limit."
        wait_s = None
        if decision.decision == "rate":
            error_code = ErrorCode.REQUEST_EXCEEDS_LIMIT
    elif decision.decision == "quota":
        text = f"Quota exceeded for {limit}. It resets at {frees_at}."
    else:
        when = f"at {frees_at}" if decision.frees_at_s else "when a running request ends"
        text = f"Rate limit reached for {limit}. It frees {when}. Please try again in {wait_s:.0f} s."
    return GatewayError(error_code, text, retry_after_s=wait_s, rates=decision.rates)
