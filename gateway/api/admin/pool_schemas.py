"""Request and response schemas of `/admin/v1/pool`."""

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
    """A key, with the limits of its account if the account is new."""

    upstream: Name
    account: Name
    key: Name
    secret: UpstreamSecret
    requests_per_minute: Rate | None = None
    images_per_minute: Rate | None = None
    max_concurrency: Rate | None = None
    weight: Weight | None = None

    def limits(self) -> AccountLimits | None:
        """Returns None if no limit is set."""
        given = {
            name: value
            for name in ("requests_per_minute", "images_per_minute", "max_concurrency", "weight")
            if (value := getattr(self, name)) is not None
        }
        return AccountLimits(**given) if given else None


class StateUpdate(Schema):
    """The operator's hold on a key or account."""

    state: Literal["ready", "disabled", "draining"]


def describe_pool(pool: PoolStatus) -> dict[str, object]:
    return {
        "name": pool.upstream,
        **_describe_health(_effective_health(pool, pool.accounts)),
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
        **_describe_health(effective := _effective_health(account, account.keys)),
        "held_by": effective.held_by,
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
        **_describe_health(key),
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


def _effective_health(own: Health, parts: Sequence[AccountStatus] | Sequence[KeyStatus]) -> Health:
    """Returns its own health. If no part is usable, the health of the part whose cooldown ends first."""
    healths = [_effective_health(part, part.keys) if isinstance(part, AccountStatus) else part for part in parts]
    if own.state is not KeyState.READY or any(item.state in {KeyState.READY, KeyState.HALF_OPEN} for item in healths):
        return own
    return min(healths, key=lambda item: item.until_s or math.inf, default=own)


def _describe_health(health: Health) -> dict[str, object]:
    return {
        "state": health.state.value,
        "error_code": health.error_code,
        "since": health.since_s,
        "until": health.until_s,
    }


def _room(limit: int, used: int, now: int | None = None) -> dict[str, object]:
    """`now`: the estimated current limit, if there is one."""
    estimate: dict[str, object] = {} if now is None else {"now": now}
    return {"limit": limit, **estimate, "used": used, "free": max(0, (limit if now is None else now) - used)}
