"""Upstream accounts and their keys, and what a fault does to a key."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.domain.faults import TABLE, Fault, Pause, Scope, State

_LONGEST_ASKED_S: Final = 24 * 60 * 60
"""An upstream's own Retry-After is believed up to a day."""


class Secret:
    """A credential that cannot be printed: its text form is its fingerprint."""

    __slots__ = ("_value", "fingerprint")

    def __init__(self, value: str, fingerprint: str) -> None:
        self._value = value
        self.fingerprint = fingerprint

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"<secret {self.fingerprint}>"


def make_secret(value: str) -> Secret:
    return Secret(value, f"fp-{hashlib.sha256(value.encode()).hexdigest()[:8]}")


@dataclass(frozen=True, slots=True)
class UpstreamKey:
    """One credential of one account at one upstream."""

    upstream: str
    account: str
    name: str
    secret: Secret

    @property
    def id(self) -> str:
        """Unique inside the upstream: the account's name and the key's."""
        return f"{self.account}/{self.name}"


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What the provider allows one account, and how much of the load it is to get."""

    requests_per_minute: int = 10
    images_per_minute: int = 60
    max_concurrency: int = 10
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Account:
    """What the provider counts its limits on: its keys share them."""

    upstream: str
    name: str
    limits: AccountLimits
    keys: tuple[UpstreamKey, ...]


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """How the accounts of one upstream are used; seconds."""

    rate_margin_s: float = 1.0
    """A minute is taken to be so much longer: the network may delay one call and not the next."""
    queue_max: int = 1000
    """Requests that wait at once."""
    breaker_failures: int = 5
    """In a row, until the upstream is left alone."""
    breaker_open_s: float = 10.0
    retry_percent: int = 20
    """So many calls of a minute may repeat a failed one, in percent of those that do not."""
    paced_percent: int = 50
    """The part of the accounts' minutes that tenants over their share get at an even pace, in percent; 0 for none."""


@dataclass(frozen=True, slots=True)
class WaitTerms:
    """How long a request waits for an account of one upstream; seconds."""

    max_wait_s: float = 120.0
    """At the most, unless the request says otherwise."""
    spill_after_s: float = 5.0
    """Where its model has another target to go to."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One upstream's accounts, as the configuration has them."""

    upstream: str
    accounts: tuple[Account, ...]
    terms: PoolTerms = PoolTerms()


@dataclass(frozen=True, slots=True)
class Rest:
    """What a fault takes out of the pool, and for how long."""

    scope: Scope
    state: State
    seconds: int
    seconds_max: int = 0
    """What it may grow to when the same fault comes again and again; 0 where it does not grow."""


def rest_after(
    fault: Fault, now_s: float, *, asked_s: float | None = None, cooldown_s: float | None = None
) -> Rest | None:
    """The cooldown after an error at `now_s` (Unix seconds), or None if no key is to blame.

    `asked_s`: the upstream's Retry-After; it can only lengthen the cooldown of a busy account. `cooldown_s`: what the
    error carries, in place of the table's seconds.
    """
    row = TABLE[fault]
    if row.pause is Pause.NONE:
        return None
    seconds = _seconds(row.pause, row.pause_s, now_s) if cooldown_s is None else math.ceil(cooldown_s)
    if asked_s is not None and row.pause is Pause.SECONDS:
        seconds = max(seconds, min(int(asked_s) + 1, _LONGEST_ASKED_S))
    return Rest(row.scope, row.state, seconds, row.pause_max_s)


def _seconds(pause: Pause, pause_s: int, now_s: float) -> int:
    """Windows are taken to end with the UTC day and month: neither provider documents its zone."""
    now = datetime.fromtimestamp(now_s, UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match pause:
        case Pause.DAY_END:
            end = today + timedelta(days=1)
        case Pause.MONTH_END:
            end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            return pause_s
    return math.ceil((end - now).total_seconds())
