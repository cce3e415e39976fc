"""Admin API client: tenants, limits and keys, with the times during which they applied."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any, Final

import aiohttp

from chaos.configuration import ADMIN_KEY
from chaos.observations import Caps, LimitPeriod

TENANTS: Final = 20
_TRIES_S: Final = 120.0
_PAUSE_S: Final = 0.3
_CALL_S: Final = 10.0
_DISTANT_S: Final = 1e12


class AdminError(Exception):
    """The gateways did not apply a change in time."""


@dataclass(eq=False)
class Tenant:
    """One tenant, with the current keys of its clients."""

    name: str
    caps: Caps
    weight: int
    models: tuple[str, ...] | None
    keys: list[tuple[str, str]] = field(default_factory=list)
    """(id, key)"""
    limit_periods: list[LimitPeriod] = field(default_factory=list)


class Admin:
    """Retries on any gateway that responds until a change is made, so that an outage prevents none."""

    def __init__(self, session: aiohttp.ClientSession, urls: Callable[[], list[str]]) -> None:
        self._session = session
        self._urls = urls
        self.revoked: dict[str, float] = {}

    async def call(self, method: str, path: str, body: object = None, *, missing_is_done: bool = False) -> Any:
        """Returns the response's JSON. Raises: AdminError."""
        deadline_s, told = time.monotonic() + _TRIES_S, "nobody answers"
        while time.monotonic() < deadline_s:
            for url in self._urls():
                try:
                    status, document = await self._ask(method, f"{url}/admin/v1{path}", body)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    told = repr(error)
                    continue
                if status < 300 or (missing_is_done and status in {404, 409}):
                    return document
                told = f"{status}: {document}"
            await asyncio.sleep(_PAUSE_S)
        raise AdminError(f"{method} {path}: {told}")

    async def create(self, tenant: Tenant) -> None:
        body = {"name": tenant.name, "weight": tenant.weight, **_document(tenant.caps)}
        if tenant.models:
            body["models"] = list(tenant.models)
        await self.call("POST", "/tenants", body, missing_is_done=True)
        tenant.limit_periods = [LimitPeriod(tenant.caps, 0.0, _DISTANT_S)]
        await self.add_key(tenant)

    async def add_key(self, tenant: Tenant) -> None:
        made = await self.call("POST", f"/tenants/{tenant.name}/keys", {"label": "chaos"})
        tenant.keys.append((made["id"], made["key"]))

    async def replace_key(self, tenant: Tenant) -> None:
        """Revokes the current key; clients use it until a new one is created."""
        old, _ = tenant.keys[-1]
        await self.call("DELETE", f"/keys/{old}", missing_is_done=True)
        self.revoked[old] = time.monotonic()
        await asyncio.sleep(1)
        await self.add_key(tenant)

    async def limit(self, tenant: Tenant, caps: Caps) -> None:
        """Sets limits, and records how long the former ones may have applied."""
        since_s = time.monotonic()
        await self.call("PATCH", f"/tenants/{tenant.name}", _document(caps))
        last = tenant.limit_periods[-1]
        tenant.limit_periods[-1] = LimitPeriod(last.caps, last.since_s, time.monotonic())
        tenant.limit_periods.append(LimitPeriod(caps, since_s, _DISTANT_S))
        tenant.caps = caps

    async def _ask(self, method: str, url: str, body: object) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        timeout = aiohttp.ClientTimeout(_CALL_S)
        async with self._session.request(method, url, json=body, headers=headers, timeout=timeout) as answer:
            return answer.status, await answer.json(content_type=None)


def plan_tenants(chance: Random) -> list[Tenant]:
    """Returns twenty tenants, from unlimited to nearly fully limited."""
    return [
        Tenant(f"tenant-{number:02}", _caps(chance, number), chance.choice((1, 1, 2, 5)), _models(number))
        for number in range(TENANTS)
    ]


def other_caps(chance: Random) -> Caps:
    """Returns new limits for a tenant."""
    return _caps(chance, chance.randrange(TENANTS))


def _caps(chance: Random, number: int) -> Caps:
    match number % 5:
        case 0:
            return Caps()
        case 1:
            return Caps(requests_per_minute=chance.randint(15, 50))
        case 2:
            return Caps(images_per_minute=chance.randint(30, 120), concurrency=chance.randint(2, 4))
        case 3:
            return Caps(images_per_day=chance.randint(50, 600), requests_per_minute=chance.randint(60, 120))
        case _:
            quota = chance.randint(50, 600)
            return Caps(images_per_month=quota, usd_micros_per_month=quota * 3000, concurrency=chance.randint(1, 3))


def _models(number: int) -> tuple[str, ...] | None:
    return ("image-01",) if number in {7, 13} else None


def _document(caps: Caps) -> dict[str, Any]:
    usd = caps.usd_micros_per_month
    return {
        "limits": {
            "requests_per_minute": caps.requests_per_minute,
            "images_per_minute": caps.images_per_minute,
            "concurrency": caps.concurrency,
        },
        "quotas": {
            "images_per_day": caps.images_per_day,
            "images_per_month": caps.images_per_month,
            "usd_per_month": None if usd is None else f"{Decimal(usd) / 1_000_000:f}",
        },
    }
