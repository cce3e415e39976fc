"""Status of the pool for the admin API and metrics, as lua/snapshot.lua replies it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import KeyState

_OUT: Final = frozenset({KeyState.QUARANTINED, KeyState.DISABLED, KeyState.DRAINING})
"""States that do not end by themselves soon."""


_MILDEST_FIRST: Final = (
    KeyState.READY,
    KeyState.HALF_OPEN,
    KeyState.COOLING,
    KeyState.QUARANTINED,
    KeyState.DRAINING,
    KeyState.DISABLED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """State of a key, account or upstream, with its reason."""

    state: KeyState = KeyState.READY
    error_code: str | None = None
    since_s: int | None = None
    """Unix seconds."""
    until_s: int | None = None
    held_by: str | None = None
    """Name of the admin key that disabled it."""
    others_may_try: bool = False
    """Only the calls of a few tenants are the reason: requests of other tenants may use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus(Health):
    """Status of one key."""

    upstream: str
    account: str
    name: str
    fingerprint: str
    model: str | None = None
    """Set if its cooldown concerns one model only."""
    is_declared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus(Health):
    """Status of one account: configured limits, current estimates and usage."""

    upstream: str
    name: str
    limits: AccountLimits
    requests_per_minute_now: int
    max_concurrency_now: int
    requests_used: int
    """In the last minute."""
    images_used: int
    in_flight: int
    free: int = 0
    """Requests that could be sent now."""
    images_today: int = 0
    usd_micros_today: int = 0
    keys: tuple[KeyStatus, ...] = ()

    def may_serve(self, model: str) -> bool:
        """Returns whether a key can be used for a model, now or after a cooldown."""
        usable = (key for key in self.keys if key.state not in _OUT or key.model not in {None, model})
        return self.state not in _OUT and any(usable)

    def calls_per_minute(self, images: int, call_s: float) -> float:
        """Returns the calls of `images` images and `call_s` seconds that it can make in a minute."""
        at_once = self.max_concurrency_now * 60 / call_s if call_s else self.requests_per_minute_now
        return min(self.requests_per_minute_now, self.limits.images_per_minute // images, at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus(Health):
    """Status of one upstream. One that Redis does not know has no accounts."""

    upstream: str
    waiting: int = 0
    """Interactive requests."""
    waiting_batch: int = 0
    oldest_wait_s: float | None = None
    """Wait of the interactive request that has waited longest; None if none waits."""
    call_s: float = 0
    """Time that a call took lately; 0 if unknown."""
    calls_last_minute: int = 0
    retries_last_minute: int = 0
    accounts: tuple[AccountStatus, ...] = ()

    @property
    def free(self) -> int:
        """Requests that could be sent now."""
        return sum(account.free for account in self.accounts)

    def images_per_minute(self, model: str, images: int) -> float:
        """Returns the images that all accounts together can make in a minute, in calls of `images` for a model."""
        if self.state in _OUT:
            return 0.0
        accounts = (account for account in self.accounts if account.may_serve(model))
        return sum(images * account.calls_per_minute(images, self.call_s) for account in accounts)


def effective_health(own: Health, parts: Sequence[AccountStatus] | Sequence[KeyStatus]) -> Health:
    """Returns its own health. If no part is usable, the health of the part whose cooldown ends first."""
    healths = [effective_health(part, part.keys) if isinstance(part, AccountStatus) else part for part in parts]
    if own.state is not KeyState.READY or any(item.state in {KeyState.READY, KeyState.HALF_OPEN} for item in healths):
        return own
    return min(healths, key=lambda item: item.until_s or math.inf, default=own)


def worst_health(*parts: Health) -> Health:
    """Returns the health of the part that is furthest from use: a key is used with its account and its upstream."""
    return max(parts, key=lambda part: _MILDEST_FIRST.index(part.state))
