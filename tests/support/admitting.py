"""Admission on a real Redis, for tests that need a reservation: a tenant with limits and its API key."""

import json
import time
import uuid
from collections.abc import Awaitable, Callable

from gateway.domain.billing import BillingRule
from gateway.domain.tenants import ApiKey, Limits, Principal, Quotas, Tenant
from gateway.metering.admission import Admission
from gateway.metering.reservations import ReservationConfig
from gateway.observability.metrics import Metrics
from gateway.redis import Client, execute
from gateway.redis.journal import Journal

KEY_ID = "key0000001"


def admitting(
    redis: Client,
    *,
    metrics: Metrics | None = None,
    rule: BillingRule | None = None,
    lease_s: float = 60,
    ledger_days: int = 30,
    journal: Journal | None = None,
    alert_percents: tuple[int, ...] = (),
    notify: Callable[[str], Awaitable[None]] | None = None,
) -> Admission:
    terms = ReservationConfig(rule or BillingRule(), lease_s, ledger_days, alert_percents=alert_percents)
    process = (metrics or Metrics(), time.monotonic, lambda: uuid.uuid4().hex, journal or Journal())
    return Admission(redis, terms, *process, notify=notify)


async def put_tenant(
    redis: Client,
    name: str = "acme",
    limits: dict[str, int] | None = None,
    key_limits: dict[str, int] | None = None,
    key_id: str = KEY_ID,
) -> Principal:
    """Writes a tenant and its key as the stores do, with `limits` in the scripts' names."""
    record = {"models": "", "disabled": "0", "created_at": "1", "limits": json.dumps(limits or {})}
    key = {"label": "", "created_at": 1, "declared": False, "limits": key_limits or {}}
    await execute(redis, redis.sadd("ig3:tenants", name), int)
    await execute(
        redis, redis.hset(f"ig3:{{{name}}}:tenant", items=[part for pair in record.items() for part in pair]), int
    )
    await execute(redis, redis.hset(f"ig3:{{{name}}}:keys", key_id, json.dumps(key)), int)
    return Principal(
        Tenant(name, limits=_limits(limits), quotas=_quotas(limits)),
        ApiKey(key_id, name, "", 1, limits=_limits(key_limits), quotas=_quotas(key_limits)),
    )


async def stays() -> bool:
    """Returns False: the client is still connected."""
    return False


def _limits(given: dict[str, int] | None) -> Limits:
    found = given or {}
    return Limits(found.get("requests_per_minute"), found.get("images_per_minute"), found.get("concurrency"))


def _quotas(given: dict[str, int] | None) -> Quotas:
    found = given or {}
    return Quotas(found.get("images_per_day"), found.get("images_per_month"), found.get("usd_micros_per_month"))
