"""Status of the pool for the admin API and metrics, as lua/snapshot.lua replies it."""

from dataclasses import dataclass

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import KeyState


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus(Health):
    """Status of one upstream. One that Redis does not know has no accounts."""

    upstream: str
    waiting: int = 0
    calls_last_minute: int = 0
    retries_last_minute: int = 0
    accounts: tuple[AccountStatus, ...] = ()

    @property
    def free(self) -> int:
        """Requests that could be sent now."""
        return sum(account.free for account in self.accounts)
