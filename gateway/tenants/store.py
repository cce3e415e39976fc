"""Tenants: create, update, list. Every change is audited atomically."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from gateway.domain.audit import Actor, AuditEvent, describe_tenant
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import RESERVED, Tenant
from gateway.redis import Client, execute
from gateway.tenants.names import TenantNames, renamed
from gateway.tenants.records import names_record, read_tenant, record, write_tenant
from gateway.tenants.transactions import ConflictError, FieldUpdate, HashKind, TenantTransactions, retrying

_BATCH: Final = 100
"""Tenants per round trip, so that ten thousand do not share one call's deadline."""
_T = TypeVar("_T")


class TenantStore:
    """The tenants of this gateway."""

    def __init__(self, redis: Client, changes: TenantTransactions) -> None:
        self._redis = redis
        self._changes = changes
        self._names = TenantNames(redis)

    async def create(self, tenant: Tenant, actor: Actor) -> Tenant:
        """Creates a tenant. Raises: GatewayError CONFLICT, INVALID_VALUE for a reserved name, REDIS_UNAVAILABLE."""
        _check_reserved(tenant.name)
        if owner := await self._names.claim(tenant.name):
            raise await self._taken(tenant.name, owner)
        try:
            await self._changes.make(tenant_act(actor, None, tenant), tenant_edits({}, tenant))
        except ConflictError:
            raise await self._taken(tenant.name, tenant.name) from None
        return tenant

    async def claim(self, name: str, tenant_id: str) -> None:
        """Reserves a new name of a tenant. Raises: GatewayError NOT_FOUND, CONFLICT, REDIS_UNAVAILABLE."""
        _check_reserved(name)
        if not await read_fields(self._redis, tenant_id):
            raise no_tenant(tenant_id)
        if owner := await self._names.claim(name, tenant_id):
            raise await self._taken(name, owner)

    async def _taken(self, name: str, owner: str) -> GatewayError:
        """Returns the error for a name that another tenant has or had."""
        tenant = read_tenant(owner, await read_fields(self._redis, owner))
        problem = f"A tenant named '{name}' exists already"
        if tenant.current_name != name:
            problem = renamed(name, tenant.current_name).detail.removesuffix(".")
            return GatewayError(ErrorCode.CONFLICT, f"{problem}. A former name cannot be given to another tenant.")
        if tenant.is_disabled:
            problem += f" and is disabled. To enable it: imagegate tenant update {name} --enable"
        return GatewayError(ErrorCode.CONFLICT, f"{problem}.")

    async def get(self, name: str) -> Tenant:
        """Returns a tenant. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        if fields := await read_fields(self._redis, name):
            return read_tenant(name, fields)
        raise no_tenant(name)

    async def list_tenants(self, after: str = "", limit: int | None = None) -> list[Tenant]:
        """Returns tenants by ID: those after an ID, up to a limit."""
        return await self.read(sorted(name for name in await self.names() if name > after), limit)

    async def read(self, ids: list[str], limit: int | None = None) -> list[Tenant]:
        """Returns the tenants that exist, up to a limit. Redis: one round trip per 100."""
        found: list[Tenant] = []
        for batch in batched(ids):
            if limit is not None and len(found) >= limit:
                break
            pipeline = self._redis.pipeline(transaction=False)
            for name in batch:
                pipeline.hgetall(record(self._redis, name, "tenant"))
            records = await execute(self._redis, pipeline.execute(), list[dict[str, str]])
            found += [read_tenant(name, fields) for name, fields in zip(batch, records, strict=True) if fields]
        return found[:limit]

    async def names(self) -> set[str]:
        return await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])

    @retrying
    async def update(self, name: str, change: Callable[[Tenant], Tenant], actor: Actor) -> Tenant:
        """Replaces a tenant by `change(tenant)`, preserving concurrent changes of other fields.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        fields = await read_fields(self._redis, name)
        if not fields:
            raise no_tenant(name)
        before = read_tenant(name, fields)
        after = change(before)
        if after != before:
            await self._changes.make(tenant_act(actor, before, after), tenant_edits(fields, after))
        return after


async def read_fields(redis: Client, name: str) -> dict[str, str]:
    """Returns a tenant's record; empty if there is none. Raises: GatewayError REDIS_UNAVAILABLE."""
    return await execute(redis, redis.hgetall(record(redis, name, "tenant")), dict[str, str])


def _check_reserved(name: str) -> None:
    if name.startswith(RESERVED):
        raise GatewayError(ErrorCode.INVALID_VALUE, f"Names that begin with '{RESERVED}' are reserved.", param="name")


def no_tenant(name: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, f"There is no tenant named '{name[:64]}'.")


def tenant_edits(fields: dict[str, str], tenant: Tenant) -> list[FieldUpdate]:
    """Returns the updates from a record to a tenant: of every field, so that the audit entry is true for all."""
    written = write_tenant(tenant)
    return [FieldUpdate(HashKind.TENANT, field, fields.get(field), value) for field, value in written.items()]


def tenant_act(actor: Actor, before: Tenant | None, after: Tenant) -> AuditEvent:
    if before is None:
        return AuditEvent(actor, "tenant.create", after.name, after=describe_tenant(after))
    actions = {(False, True): "tenant.disable", (True, False): "tenant.enable"}
    action = actions.get((before.is_disabled, after.is_disabled), "tenant.update")
    if before.current_name != after.current_name:
        action = "tenant.rename"
    return AuditEvent(actor, action, after.name, before=describe_tenant(before), after=describe_tenant(after))


def batched(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def grouped(items: Sequence[_T], weights: Sequence[int], most: int) -> Iterator[list[_T]]:
    """Groups neighbours whose total weight is within the limit; a heavier item is alone."""
    group: list[_T] = []
    total = 0
    for item, weight in zip(items, weights, strict=True):
        if group and total + weight > most:
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group
