"""Tenants: create, update, list. Every change is audited atomically."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from gateway.domain.audit import Actor, AuditEvent, describe_tenant
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Tenant
from gateway.redis import Client, execute
from gateway.tenants.records import names_record, read_tenant, tenant_record, write_tenant
from gateway.tenants.transactions import ConflictError, FieldUpdate, HashKind, TenantTransactions, retrying

BATCH: Final = 100
"""Tenants per round trip, so that ten thousand do not share one call's deadline."""


class TenantStore:
    """The tenants of this gateway."""

    def __init__(self, redis: Client, changes: TenantTransactions) -> None:
        self._redis = redis
        self._changes = changes

    async def create(self, tenant: Tenant, actor: Actor) -> Tenant:
        """Creates a tenant. Raises: GatewayError CONFLICT, REDIS_UNAVAILABLE."""
        await execute(self._redis, self._redis.sadd(names_record(self._redis.prefix), tenant.name), int)
        act = AuditEvent(actor, "tenant.create", tenant.name, after=describe_tenant(tenant))
        try:
            await self._changes.make(act, list(tenant_edits({}, tenant)))
        except ConflictError:
            raise GatewayError(ErrorCode.CONFLICT, f"A tenant named '{tenant.name}' exists already.") from None
        return tenant

    async def get(self, name: str) -> Tenant:
        """Returns a tenant. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        return read_tenant(name, await self._fields(name))

    async def list_tenants(self) -> list[Tenant]:
        """Returns all tenants by name."""
        found: list[Tenant] = []
        for batch in batched(sorted(await self.names())):
            pipeline = self._redis.pipeline(transaction=False)
            for name in batch:
                pipeline.hgetall(tenant_record(self._redis.prefix, name))
            records = await execute(self._redis, pipeline.execute(), list[dict[str, str]])
            found += [read_tenant(name, fields) for name, fields in zip(batch, records, strict=True) if fields]
        return found

    async def names(self) -> set[str]:
        return await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])

    async def update(self, name: str, change: Callable[[Tenant], Tenant], actor: Actor) -> Tenant:
        """Replaces a tenant by `change(tenant)`, preserving concurrent changes of other fields.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        return await retrying(partial(self._update, name, change, actor))

    async def _update(self, name: str, change: Callable[[Tenant], Tenant], actor: Actor) -> Tenant:
        fields = await self._fields(name)
        before = read_tenant(name, fields)
        after = change(before)
        if after != before:
            edits = list(tenant_edits(fields, after))
            await self._changes.make(tenant_act(actor, before, after), edits)
        return after

    async def _fields(self, name: str) -> dict[str, str]:
        fields = await execute(
            self._redis, self._redis.hgetall(tenant_record(self._redis.prefix, name)), dict[str, str]
        )
        if not fields:
            raise no_tenant(name)
        return fields


def no_tenant(name: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, f"There is no tenant named '{name[:64]}'.")


def tenant_edits(fields: dict[str, str], tenant: Tenant) -> Iterator[FieldUpdate]:
    """Yields the updates from a record to a tenant.

    Every field is included, so that the audit entry is also true for unchanged ones.
    """
    for field, value in write_tenant(tenant).items():
        yield FieldUpdate(HashKind.TENANT, field, fields.get(field), value)


def tenant_act(actor: Actor, before: Tenant, after: Tenant) -> AuditEvent:
    actions = {(False, True): "tenant.disable", (True, False): "tenant.enable"}
    action = actions.get((before.is_disabled, after.is_disabled), "tenant.update")
    return AuditEvent(actor, action, after.name, before=describe_tenant(before), after=describe_tenant(after))


def batched(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]
