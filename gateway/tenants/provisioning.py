"""Provisions configured tenants in Redis at startup, at a reload, and after Redis lost its data.

Invariants: applying twice, even from many processes, changes nothing and writes no audit entries. Counters are
never touched. Operator decisions to disable or revoke persist. Tenants and keys of the admin API are not changed.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from gateway.domain.audit import CONFIGURATION, AuditEvent, describe_key, describe_tenant
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import ApiKey, Tenant
from gateway.redis import Client, execute
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.authentication import Authenticator
from gateway.tenants.names import TenantNames
from gateway.tenants.records import read_key, read_tenant, record, write_key
from gateway.tenants.store import read_fields, tenant_act, tenant_edits
from gateway.tenants.transactions import FieldUpdate, HashKind, TenantTransactions, retrying

_CHECK_INTERVAL_S: Final = 2.0
_START_S: Final = 3.0
"""Limit on how long startup waits for the first application; below uvicorn's worker startup timeout."""
_LOST: Final = "tenants and keys of the admin API, the audit log, counters of limits and quotas, the ledger"
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
        self._provisioned_record = f"{redis.prefix}:provisioned_tenants"
        """The set of configured tenant names, of now or of the last applied configuration."""
        self._digest_record = f"{redis.prefix}:provisioning_digest"
        """Digest of the last applied configuration; if it is missing, Redis has lost its data."""
        self._credentials = credentials
        self._changes = changes
        self._keys = keys
        self._names = TenantNames(redis)
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

    async def _check(self) -> None:
        if self._is_applied:
            if await execute(self._redis, self._redis.exists(self._digest_record), bool):
                return
            restored = f"{len(self._declared)} tenants of the configuration"
            _LOG.error("redis_data_loss_detected", lost=_LOST, restored=restored)
        await self.apply()

    async def reload(self, declared: Sequence[ProvisionedTenant]) -> None:
        """Applies a new configuration in place of the present one."""
        self._declared = tuple(declared)
        self._is_applied = False
        await self.start()

    async def apply(self) -> None:
        """Makes Redis match the configuration. Raises: GatewayError REDIS_UNAVAILABLE."""
        async with self._leader:
            declared = self._declared
            await self._apply(declared)
            described = [
                [describe_tenant(entry.tenant), [[describe_key(key.key), key.hashed] for key in entry.keys]]
                for entry in declared
            ]
            digest = hashlib.sha256(msgspec.json.encode(described)).hexdigest()
            await execute(self._redis, self._redis.set(self._digest_record, digest), object)
            self._is_applied = declared is self._declared

    async def _by_id(self, tenants: Sequence[ProvisionedTenant]) -> list[ProvisionedTenant]:
        """Claims the names. Returns the tenants by ID: one that was renamed may be declared by any of its names."""
        found: dict[str, ProvisionedTenant] = {}
        for declared in tenants:
            name = declared.tenant.name
            tenant_id = await self._names.claim(name) or name
            if tenant_id in found:
                _LOG.error("tenant_declared_twice", tenant=name, hint=f"it is the renamed '{tenant_id}': remove one")
                continue
            if (current := await self._names.current(tenant_id)) != name:
                _LOG.warning("tenant_declared_by_former_name", tenant=name, hint=f"declare it as '{current}'")
            keys = tuple(replace(entry, key=replace(entry.key, tenant=tenant_id)) for entry in declared.keys)
            found[tenant_id] = ProvisionedTenant(replace(declared.tenant, name=tenant_id), keys)
        return list(found.values())

    async def _apply(self, tenants: Sequence[ProvisionedTenant]) -> None:
        tenants = await self._by_id(tenants)
        names = {declared.tenant.name for declared in tenants}
        if names:
            await execute(self._redis, self._redis.sadd(self._provisioned_record, *names), int)
        for declared in tenants:
            await self._apply_record(declared.tenant)
            for entry in declared.keys:
                if entry.key.expires_at is None or entry.key.expires_at > self._clock():
                    await self._apply_key(entry)
            await self._revoke_others(declared.tenant.name, {entry.key.id for entry in declared.keys})
        known_names = await execute(self._redis, self._redis.smembers(self._provisioned_record), set[str])
        for name in sorted(known_names - names):
            await self._disable(name)
            await execute(self._redis, self._redis.srem(self._provisioned_record, name), int)
        if names or known_names:
            _LOG.info("tenants_provisioned", tenants=len(names))

    @retrying
    async def _apply_record(self, declared: Tenant) -> None:
        fields = await read_fields(self._redis, declared.name)
        before = read_tenant(declared.name, fields) if fields else None
        tenant = _desired(declared, before, int(self._clock()))
        if tenant != before:
            await self._changes.make(tenant_act(CONFIGURATION, before, tenant), tenant_edits(fields, tenant))

    @retrying
    async def _apply_key(self, declared: ProvisionedKey) -> None:
        """Applies a key. Always writes the lookup, because a cluster may lose data partially."""
        key, keyed_hash = declared.key, await self._credentials.keyed_hash(declared.hashed, asks_redis=True)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sismember(record(self._redis, key.tenant, "revoked_keys"), key.id)
        pipeline.hget(record(self._redis, key.tenant, "keys"), key.id)
        is_revoked, text = await execute(self._redis, pipeline.execute(), tuple[int, str])
        if is_revoked:
            _LOG.warning("configured_key_revoked", tenant=key.tenant, key=key.id, hint="configure a new key")
            return
        owner = await self._keys.index(key)
        if owner and owner != key.tenant:
            await self._revoke(owner, key.id)
        action, before, old_secret = "key.create", None, ("", 0)
        if stored := read_key(text) if text else None:
            action, before = "key.rotate", stored.key(key.id, key.tenant)
            key = replace(key, created_at=before.created_at)
            if stored.keyed_hash == keyed_hash:
                action, old_secret = "key.update", (stored.old_mac, stored.old_until)
                key = replace(key, old_secret_until=before.old_secret_until)
        else:
            key = replace(key, created_at=int(self._clock()))
        after = write_key(key, keyed_hash, *old_secret)
        if after != text:
            described = describe_key(before) if before else None
            act = AuditEvent(CONFIGURATION, action, key.tenant, key.id, described, describe_key(key))
            edit = FieldUpdate(HashKind.KEYS, key.id, text or None, after)
            await self._changes.make(act, [edit], unless_revoked=key.id)

    @retrying
    async def _revoke_others(self, tenant: str, desired: set[str]) -> None:
        """Revokes keys that are no longer configured."""
        texts = await execute(self._redis, self._redis.hgetall(record(self._redis, tenant, "keys")), dict[str, str])
        for key_id, text in texts.items():
            if key_id not in desired and read_key(text).declared:
                await self._revoke(tenant, key_id)

    async def _revoke(self, tenant: str, key_id: str) -> None:
        text = await execute(self._redis, self._redis.hget(record(self._redis, tenant, "keys"), key_id), str)
        if text:
            described = describe_key(read_key(text).key(key_id, tenant))
            act = AuditEvent(CONFIGURATION, "key.revoke", tenant, key_id, before=described)
            await self._changes.make(act, [FieldUpdate(HashKind.KEYS, key_id, text, None)])
        await self._keys.unindex(key_id, tenant)

    @retrying
    async def _disable(self, name: str) -> None:
        """Disables a tenant that is no longer configured; its data is preserved."""
        fields = await read_fields(self._redis, name)
        before = read_tenant(name, fields) if fields else None
        if before and before.is_declared:
            by = before.disabled_by if before.is_disabled else CONFIGURATION.name
            after = replace(before, is_declared=False, is_disabled=True, disabled_by=by)
            await self._changes.make(tenant_act(CONFIGURATION, before, after), tenant_edits(fields, after))


def _desired(declared: Tenant, before: Tenant | None, now: int) -> Tenant:
    """Returns the tenant as configured, except that one disabled by an operator remains disabled."""
    created_at, by = before.created_at if before else now, CONFIGURATION.name if declared.is_disabled else ""
    desired = replace(declared, is_declared=True, disabled_by=by, created_at=created_at)
    desired = replace(desired, renamed_to=before.renamed_to if before else "")
    if before and before.is_disabled and before.disabled_by != CONFIGURATION.name:
        return replace(desired, is_disabled=True, disabled_by=before.disabled_by)
    return desired
