"""Provisions configured tenants in Redis at startup, at a reload, and after Redis lost its data.

Invariants: applying twice, even from many processes, changes nothing and writes no audit entries. Counters are
never touched. Operator decisions to disable or revoke persist. Tenants and keys of the admin API are not changed.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
import structlog

from gateway.domain.audit import CONFIGURATION, AuditEvent, describe_key, describe_tenant
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import ApiKey, Tenant
from gateway.redis import PREFIX, Client, execute
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.authentication import Authenticator
from gateway.tenants.records import (
    NAMES,
    keys_record,
    read_key,
    read_tenant,
    revoked_record,
    tenant_record,
    write_key,
)
from gateway.tenants.store import tenant_act, tenant_edits
from gateway.tenants.transactions import FieldUpdate, HashKind, TenantTransactions, retrying

PROVISIONED_TENANTS: Final = f"{PREFIX}:provisioned_tenants"
"""The set of configured tenant names, of now or of the last applied configuration."""
PROVISIONING_DIGEST: Final = f"{PREFIX}:provisioning_digest"
"""Digest of the last applied configuration; if it is missing, Redis has lost its data."""
_CHECK_INTERVAL_S: Final = 2.0
_START_S: Final = 3.0
"""Limit on how long startup waits for the first application; below uvicorn's worker startup timeout."""
_LOG = structlog.get_logger("imagegate.declaration")


@dataclass(frozen=True, slots=True)
class ProvisionedKey:
    """A key, as the hexadecimal SHA-256 of its secret text."""

    key: ApiKey
    hashed: str


@dataclass(frozen=True, slots=True)
class ProvisionedTenant:
    """A configured tenant with its keys."""

    tenant: Tenant
    keys: tuple[ProvisionedKey, ...] = ()


class TenantProvisioner:
    """Applies the configured tenants."""

    def __init__(
        self,
        redis: Client,
        credentials: Authenticator,
        changes: TenantTransactions,
        keys: ApiKeyStore,
        clock: Callable[[], float],
        declared: Sequence[ProvisionedTenant],
        check_interval_s: float = _CHECK_INTERVAL_S,
    ) -> None:
        self._redis = redis
        self._credentials = credentials
        self._changes = changes
        self._keys = keys
        self._clock = clock
        self._declared = tuple(declared)
        self._check_interval_s = check_interval_s
        self._is_applied = False
        self._leader = asyncio.Lock()

    async def start(self) -> None:
        """Applies the configuration. Without Redis, startup continues and `run` retries."""
        try:
            async with asyncio.timeout(_START_S):
                await self.apply()
        except (GatewayError, TimeoutError) as error:
            _LOG.warning("tenant_provisioning_pending", detail=str(error), retry_in_s=self._check_interval_s)

    async def run(self) -> None:
        """Retries failed applications, and applies again after Redis lost its data; runs until cancelled."""
        while True:
            await asyncio.sleep(self._check_interval_s)
            try:
                await self._check()
            except GatewayError as error:
                _LOG.debug("tenant_provisioning_check_failed", detail=error.detail)

    async def reload(self, declared: Sequence[ProvisionedTenant]) -> None:
        """Applies a new configuration in place of the present one."""
        self._declared = tuple(declared)
        self._is_applied = False
        await self.start()

    async def apply(self) -> None:
        """Makes Redis match the configuration. Raises: GatewayError REDIS_UNAVAILABLE."""
        async with self._leader:
            declared = self._declared
            if declared:
                await self._apply(declared)
            await execute(self._redis, self._redis.set(PROVISIONING_DIGEST, _digest(declared)), object)
            self._is_applied = declared is self._declared

    async def _apply(self, tenants: Sequence[ProvisionedTenant]) -> None:
        names = {declared.tenant.name for declared in tenants}
        for known in (NAMES, PROVISIONED_TENANTS):
            await execute(self._redis, self._redis.sadd(known, *names), int)
        for declared in tenants:
            await self._apply_tenant(declared)
        for name in sorted(await execute(self._redis, self._redis.smembers(PROVISIONED_TENANTS), set[str]) - names):
            await self._retire(name)
        _LOG.info("tenants_provisioned", tenants=len(names))

    async def _check(self) -> None:
        if self._is_applied and await execute(self._redis, self._redis.exists(PROVISIONING_DIGEST), bool):
            return
        if self._is_applied:
            _LOG.error(
                "redis_data_loss_detected",
                lost="tenants and keys of the admin API, the audit log, counters of limits and quotas, the ledger",
                restored=f"{len(self._declared)} tenants of the configuration",
            )
        await self.apply()

    async def _apply_tenant(self, declared: ProvisionedTenant) -> None:
        name = declared.tenant.name
        await retrying(partial(self._apply_record, declared.tenant))
        for entry in declared.keys:
            if entry.key.expires_at is None or entry.key.expires_at > self._clock():
                await retrying(partial(self._apply_key, entry))
        await retrying(partial(self._revoke_others, name, {entry.key.id for entry in declared.keys}))

    async def _apply_record(self, declared: Tenant) -> None:
        fields = await execute(self._redis, self._redis.hgetall(tenant_record(declared.name)), dict[str, str])
        if not fields:
            tenant = replace(_desired(declared), created_at=int(self._clock()))
            act = AuditEvent(CONFIGURATION, "tenant.create", tenant.name, after=describe_tenant(tenant))
        else:
            before = read_tenant(declared.name, fields)
            tenant = _desired(declared, before)
            if tenant == before:
                return
            act = tenant_act(CONFIGURATION, before, tenant)
        await self._changes.make(act, list(tenant_edits(fields, tenant)))

    async def _apply_key(self, declared: ProvisionedKey) -> None:
        """Applies a key. Always writes the lookup, because a cluster may lose data partially."""
        key, keyed_hash = declared.key, await self._credentials.keyed_hash(declared.hashed, asks_redis=True)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sismember(revoked_record(key.tenant), key.id)
        pipeline.hget(keys_record(key.tenant), key.id)
        is_revoked, text = await execute(self._redis, pipeline.execute(), tuple[int, str])
        if is_revoked:
            _LOG.warning("configured_key_revoked", tenant=key.tenant, key=key.id, hint="configure a new key")
            return
        owner = await self._keys.index(key)
        if owner and owner != key.tenant:
            await self._revoke(owner, key.id)
        if not text:
            key = replace(key, created_at=int(self._clock()))
            act = AuditEvent(CONFIGURATION, "key.create", key.tenant, key.id, after=describe_key(key))
            made = FieldUpdate(HashKind.KEYS, key.id, None, write_key(key, keyed_hash))
            await self._changes.make(act, [made], unless_revoked=key.id)
            return
        record = read_key(text)
        before, is_same = record.key(key.id, key.tenant), record.keyed_hash == keyed_hash
        old_until = before.old_secret_until if is_same else None
        key = replace(key, created_at=record.created_at, old_secret_until=old_until)
        after = write_key(key, keyed_hash, record.old_mac, record.old_until) if is_same else write_key(key, keyed_hash)
        if after != text:
            action = "key.update" if is_same else "key.rotate"
            act = AuditEvent(CONFIGURATION, action, key.tenant, key.id, describe_key(before), describe_key(key))
            await self._changes.make(act, [FieldUpdate(HashKind.KEYS, key.id, text, after)])

    async def _revoke_others(self, tenant: str, desired: set[str]) -> None:
        """Revokes keys that are no longer configured."""
        texts = await execute(self._redis, self._redis.hgetall(keys_record(tenant)), dict[str, str])
        for key_id, text in texts.items():
            if key_id not in desired and read_key(text).declared:
                await self._revoke(tenant, key_id)

    async def _revoke(self, tenant: str, key_id: str) -> None:
        text = await execute(self._redis, self._redis.hget(keys_record(tenant), key_id), str)
        if text:
            described = describe_key(read_key(text).key(key_id, tenant))
            act = AuditEvent(CONFIGURATION, "key.revoke", tenant, key_id, before=described)
            await self._changes.make(act, [FieldUpdate(HashKind.KEYS, key_id, text, None)])
        await self._keys.unindex(key_id, tenant)

    async def _retire(self, name: str) -> None:
        """Disables a tenant that is no longer configured; its data is preserved."""
        await retrying(partial(self._disable, name))
        await execute(self._redis, self._redis.srem(PROVISIONED_TENANTS, name), int)

    async def _disable(self, name: str) -> None:
        fields = await execute(self._redis, self._redis.hgetall(tenant_record(name)), dict[str, str])
        before = read_tenant(name, fields) if fields else None
        if before and before.is_declared:
            by = before.disabled_by if before.is_disabled else CONFIGURATION.name
            after = replace(before, is_declared=False, is_disabled=True, disabled_by=by)
            await self._changes.make(tenant_act(CONFIGURATION, before, after), list(tenant_edits(fields, after)))


def _desired(declared: Tenant, before: Tenant | None = None) -> Tenant:
    """Returns the tenant as configured, except that one disabled by an operator remains disabled."""
    by = CONFIGURATION.name if declared.is_disabled else ""
    desired = replace(declared, is_declared=True, disabled_by=by)
    if before is None:
        return desired
    desired = replace(desired, created_at=before.created_at)
    if before.is_disabled and before.disabled_by != CONFIGURATION.name:
        return replace(desired, is_disabled=True, disabled_by=before.disabled_by)
    return desired


def _digest(declared: Sequence[ProvisionedTenant]) -> str:
    described = [
        [describe_tenant(entry.tenant), [[describe_key(key.key), key.hashed] for key in entry.keys]]
        for entry in declared
    ]
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()
