"""Tenants, API keys and the audit log on a real Redis, without a gateway."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant, digest, key_id
from gateway.redis import Client, connect
from gateway.tenants.api_keys import ApiKeyStore, CreatedApiKey
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Authenticator, generate_api_key
from gateway.tenants.provisioning import ProvisionedKey, ProvisionedTenant, TenantProvisioner
from gateway.tenants.store import TenantStore
from gateway.tenants.transactions import TenantTransactions

OPS = Actor("ops", "req_1")


@dataclass(frozen=True)
class Stores:
    """The administration stores of one gateway process."""

    redis: Client
    credentials: Authenticator
    changes: TenantTransactions
    tenants: TenantStore
    keys: ApiKeyStore
    clock: Callable[[], float]

    async def tenant(self, name: str = "acme", **fields: Any) -> Tenant:
        return await self.tenants.create(Tenant(name, **fields), OPS)

    async def key(self, tenant: str = "acme", label: str = "", expires_at: int | None = None) -> CreatedApiKey:
        return await self.keys.create(ApiKey("", tenant, label, int(self.clock()), expires_at), OPS)

    async def fault_of(self, secret: str) -> ErrorCode | None:
        """Returns the error code with which a key is refused, or None."""
        return await self.fault_of_header(f"Bearer {secret}")

    async def fault_of_header(self, authorization: str | None) -> ErrorCode | None:
        try:
            await self.credentials.identify(authorization)
        except GatewayError as error:
            return error.error_code
        return None

    def declaration(self, *declared: ProvisionedTenant) -> TenantProvisioner:
        """Returns a provisioner of these tenants."""
        return TenantProvisioner(
            self.redis, self.credentials, self.changes, self.keys, self.clock, declared, check_interval_s=0.01
        )

    async def audit(self, *tenants: str) -> list[dict[str, Any]]:
        """Returns every entry decoded, oldest first."""
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
    credentials = Authenticator(redis, pepper=pepper, clock=clock, monotonic=monotonic)
    changes = TenantTransactions(redis, credentials.forget, audit_keep_s)
    keys = ApiKeyStore(redis, credentials, changes, clock)
    try:
        yield Stores(redis, credentials, changes, TenantStore(redis, changes), keys, clock)
    finally:
        await redis.aclose()


def declared_key(
    secret: str, tenant: str = "acme", label: str = "", expires_at: int | None = None, limits: Limits | None = None
) -> ProvisionedKey:
    key = ApiKey(key_id(secret) or "", tenant, label, 0, expires_at, limits or Limits(), Quotas(), is_declared=True)
    return ProvisionedKey(key, digest(secret))


def declared(name: str = "acme", secrets: Sequence[str] = (), **fields: Any) -> ProvisionedTenant:
    keys = tuple(declared_key(secret, name) for secret in secrets)
    return ProvisionedTenant(Tenant(name, is_declared=True, **fields), keys)


__all__ = ["OPS", "Stores", "declared", "declared_key", "generate_api_key", "storing"]
