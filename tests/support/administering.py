"""Tenants, their keys and the audit on a real Redis, without a gateway around them."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.domain.audit import Actor
from gateway.domain.errors import Fault, GatewayError
from gateway.domain.tenants import Limits, Quotas, Tenant, TenantKey, digest, key_id
from gateway.redis import Client, connect
from gateway.tenants.api_keys import NewKey, TenantKeys
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Credentials, new_secret
from gateway.tenants.provisioning import Declaration, DeclaredKey, DeclaredTenant
from gateway.tenants.store import TenantStore
from gateway.tenants.transactions import Changes

OPS = Actor("ops", "req_1")


@dataclass(frozen=True)
class Stores:
    """What one gateway process has of administration."""

    redis: Client
    credentials: Credentials
    changes: Changes
    tenants: TenantStore
    keys: TenantKeys
    clock: Callable[[], float]

    async def tenant(self, name: str = "acme", **fields: Any) -> Tenant:
        return await self.tenants.create(Tenant(name, **fields), OPS)

    async def key(self, tenant: str = "acme", label: str = "", expires_at: int | None = None) -> NewKey:
        return await self.keys.create(tenant, OPS, label, expires_at)

    async def fault_of(self, secret: str) -> Fault | None:
        """Why a key is refused, or None."""
        return await self.fault_of_header(f"Bearer {secret}")

    async def fault_of_header(self, authorization: str | None) -> Fault | None:
        try:
            await self.credentials.identify(authorization)
        except GatewayError as error:
            return error.fault
        return None

    def declaration(self, *declared: DeclaredTenant) -> Declaration:
        """One that looks after Redis all the time."""
        return Declaration(self.redis, self.credentials, self.changes, self.keys, self.clock, declared, look_s=0.01)

    async def audit(self, *tenants: str) -> list[dict[str, Any]]:
        """Every entry, the oldest first, decoded."""
        names = set(tenants) or await self.tenants.names()
        page = await Audit(self.redis).page(names, 1000, None)
        entries: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(page.entries))
        return entries[::-1]

    async def actions(self, *tenants: str) -> list[tuple[str, str]]:
        return [(entry["actor"], entry["action"]) for entry in await self.audit(*tenants)]


@asynccontextmanager
async def storing(
    url: str,
    *,
    pepper: str | None = None,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    audit_keep_s: int = 86_400,
) -> AsyncIterator[Stores]:
    redis = connect(url, 2.0)
    credentials = Credentials(redis, pepper=pepper, clock=clock, monotonic=monotonic)
    changes = Changes(redis, credentials.forget, audit_keep_s)
    keys = TenantKeys(redis, credentials, changes, clock)
    try:
        yield Stores(redis, credentials, changes, TenantStore(redis, changes), keys, clock)
    finally:
        await redis.aclose()


def declared_key(
    secret: str, tenant: str = "acme", label: str = "", expires_at: int | None = None, limits: Limits | None = None
) -> DeclaredKey:
    key = TenantKey(key_id(secret) or "", tenant, label, 0, expires_at, limits or Limits(), Quotas(), is_declared=True)
    return DeclaredKey(key, digest(secret))


def declared(name: str = "acme", secrets: Sequence[str] = (), **fields: Any) -> DeclaredTenant:
    keys = tuple(declared_key(secret, name) for secret in secrets)
    return DeclaredTenant(Tenant(name, is_declared=True, **fields), keys)


__all__ = ["OPS", "Stores", "declared", "declared_key", "new_secret", "storing"]
