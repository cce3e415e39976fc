"""Upstreams, accounts and keys as the admin API shows them, and what administrators send to change them."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from gateway.api.admin.schemas import Name, Schema, Weight
from gateway.domain.accounts import AccountLimits
from gateway.domain.billing import usd
from gateway.domain.errors import KeyState
from gateway.providers.protocol import KeyCheck
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus

UpstreamSecret = Annotated[str, Meta(pattern=r"^[!-~]{1,500}\Z")]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]


class NewProviderKey(Schema):
    """A key, and the limits of its account where it is the account's first."""

    upstream: Name
    account: Name
    key: Name
    secret: UpstreamSecret
    requests_per_minute: Rate | None = None
    images_per_minute: Rate | None = None
    max_concurrency: Rate | None = None
    weight: Weight | None = None

    def limits(self) -> AccountLimits | None:
        """None where nothing is said of them."""
        given = {
            name: value
            for name in ("requests_per_minute", "images_per_minute", "max_concurrency", "weight")
            if (value := getattr(self, name)) is not None
        }
        return AccountLimits(**given) if given else None


class StateUpdate(Schema):
    """Whether a person takes it out of the pool."""

    state: Literal["ready", "disabled", "draining"]


def describe_pool(pool: PoolStatus) -> dict[str, object]:
    return {
        "name": pool.upstream,
        **_describe_standing(_ruling(pool, pool.accounts)),
        "waiting": pool.waiting,
        "calls_last_minute": pool.calls_last_minute,
        "retries_last_minute": pool.retries_last_minute,
        "accounts": [describe_account(account) for account in pool.accounts],
    }


def describe_account(account: AccountStatus) -> dict[str, object]:
    limits, rate, calls = account.limits, account.requests_per_minute_now, account.max_concurrency_now
    return {
        "upstream": account.upstream,
        "account": account.name,
        **_describe_standing(ruling := _ruling(account, account.keys)),
        "held_by": ruling.held_by,
        "weight": limits.weight,
        "requests_per_minute": _room(limits.requests_per_minute, account.requests_used, rate),
        "images_per_minute": _room(limits.images_per_minute, account.images_used),
        "concurrency": _room(limits.max_concurrency, account.in_flight, calls),
        "images_today": account.images_today,
        "spend_today_usd": usd(account.usd_micros_today),
        "keys": [describe_key(key) for key in account.keys],
    }


def describe_key(key: KeyStatus) -> dict[str, object]:
    return {
        "upstream": key.upstream,
        "account": key.account,
        "key": key.name,
        "fingerprint": key.fingerprint,
        **_describe_standing(key),
        "model": key.model,
        "held_by": key.held_by,
        "declared": key.is_declared,
    }


def describe_probe(probe: KeyCheck) -> dict[str, object]:
    return {
        "works": probe.error_code is None,
        "error_code": probe.error_code.value if probe.error_code else None,
        "detail": probe.detail,
        "seconds": round(probe.seconds, 3),
    }


def _ruling(own: Health, parts: Sequence[AccountStatus] | Sequence[KeyStatus]) -> Health:
    """Its own standing, or that of the part which is back first, where none of its parts can be used."""
    standings = [_ruling(part, part.keys) if isinstance(part, AccountStatus) else part for part in parts]
    if own.state is not KeyState.READY or any(one.state in {KeyState.READY, KeyState.HALF_OPEN} for one in standings):
        return own
    return min(standings, key=lambda one: one.until_s or math.inf, default=own)


def _describe_standing(standing: Health) -> dict[str, object]:
    return {
        "state": standing.state.value,
        "error_code": standing.error_code,
        "since": standing.since_s,
        "until": standing.until_s,
    }


def _room(limit: int, used: int, now: int | None = None) -> dict[str, object]:
    """`now` is what it seems to allow at present, where that is estimated."""
    estimate: dict[str, object] = {} if now is None else {"now": now}
    return {"limit": limit, **estimate, "used": used, "free": max(0, (limit if now is None else now) - used)}
