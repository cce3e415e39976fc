"""Upstream accounts, their keys, and the cooldown that an error causes."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.domain.errors import CooldownKind, ErrorCode, KeyState, Scope

_LONGEST_ASKED_S: Final = 24 * 60 * 60
"""Limit on a Retry-After from an upstream."""


class Secret:
    """A secret whose text form is its fingerprint, so that no log can print it."""

    __slots__ = ("fingerprint", "plaintext")

    def __init__(self, plaintext: str, fingerprint: str) -> None:
        self.plaintext = plaintext
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"<secret {self.fingerprint}>"


def make_secret(plaintext: str) -> Secret:
    return Secret(plaintext, f"fp-{hashlib.sha256(plaintext.encode()).hexdigest()[:8]}")


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """One credential of one account at one upstream."""

    upstream: str
    account: str
    name: str
    secret: Secret

    @property
    def id(self) -> str:
        """Unique within the upstream: account name and key name."""
        return f"{self.account}/{self.name}"


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """The provider's limits for one account, and the account's share of the load."""

    requests_per_minute: int = 10
    images_per_minute: int = 60
    max_concurrency: int = 10
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Account:
    """The unit that a provider limits. Its keys share the limits."""

    upstream: str
    name: str
    limits: AccountLimits
    keys: tuple[ProviderKey, ...]


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Scheduling settings of one upstream's accounts; times in seconds."""

    rate_window_margin_s: float = 1.0  # safety margin added to the 60 s rate window, to absorb network jitter
    max_queue_length: int = 1000
    breaker_failures: int = 5  # consecutive failures that open the circuit breaker
    breaker_open_s: float = 10.0
    retry_budget_percent: int = 20  # retry budget: retries in a minute, in percent of first calls
    paced_percent: int = 50
    """Percent of the accounts' rate limits granted at an even rate to tenants over their share; 0 disables pacing."""


@dataclass(frozen=True, slots=True)
class WaitConfig:
    """Queue wait limits of one upstream; seconds."""

    max_wait_s: float = 120.0
    fallback_after_s: float = 5.0  # wait before fallback to the model's next target


@dataclass(frozen=True, slots=True)
class Pool:
    """The configured accounts and keys of one upstream."""

    upstream: str
    accounts: tuple[Account, ...]
    terms: PoolConfig = PoolConfig()
    spend_alerts: Mapping[str, int] = field(default_factory=dict)
    """By account: micro-dollars that it delivers in a day before an event is emitted."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The time for which an error takes a key, account or upstream out of rotation."""

    scope: Scope
    state: KeyState
    seconds: int
    seconds_max: int = 0  # limit of the doubling while the same error repeats; 0 if it does not double


def cooldown_for(
    error_code: ErrorCode, now_s: float, *, asked_s: float | None = None, cooldown_s: float | None = None
) -> Cooldown | None:
    """Returns the cooldown after an error at `now_s` (Unix seconds), or None if no key is to blame.

    `asked_s`: the upstream's Retry-After; it can only lengthen the cooldown of a busy account.
    `cooldown_s`: the error's own cooldown, which replaces the table's seconds.
    """
    row = error_code.spec
    if row.pause is CooldownKind.NONE:
        return None
    seconds = row.pause_s if cooldown_s is None else math.ceil(cooldown_s)
    if cooldown_s is None and row.pause is not CooldownKind.SECONDS:  # in UTC: no provider documents its time zone
        now = datetime.fromtimestamp(now_s, UTC)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        is_day = row.pause is CooldownKind.DAY_END
        end = today + timedelta(days=1) if is_day else (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        seconds = math.ceil((end - now).total_seconds())
    if asked_s is not None and row.pause is CooldownKind.SECONDS:
        seconds = max(seconds, min(int(asked_s) + 1, _LONGEST_ASKED_S))
    return Cooldown(row.scope, row.state, seconds, row.pause_max_s)
