"""Deletes tenants for good: all of them but the bill, which stays under a pseudonym.

A leader goes on with each purge until it is done. Every step can be repeated, so a process that dies costs nothing:

1. The tenant is disabled. Wait until no reservation is open or can still be corrected, and its storage is erased.
2. Delete its record, after which nothing is admitted again, and then every key of its hash tag except the bill.
3. Copy the bill, without what is personal, to the pseudonym, which no report knows yet.
4. Delete the tenant's webhooks and its deliveries of events.
5. Exchange both names in the set of tenants, in one step: reports read the one or the other.
6. Delete the rest.

Invariant: the name is given to no tenant before step 6 is done.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import date
from typing import Final

import structlog

from gateway.domain.audit import Actor, AuditEvent
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import RESERVED
from gateway.domain.usage import Holder, TenantDay, UsageFilter
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import (
    closed_record,
    day_number,
    days_record,
    records_stream,
    sums_record,
    write_holder,
)
from gateway.metering.refusals import owners_record
from gateway.redis import Client, LeaderLock, execute, load_script, scan_keys
from gateway.tenants.names import TenantNames
from gateway.tenants.records import lookup_record, read_tenant, record
from gateway.tenants.store import read_fields
from gateway.tenants.transactions import ConflictError, FieldUpdate, HashKind, TenantTransactions

_LOG = structlog.get_logger("imagegate.tenants")
_EVERY_S: Final = 5.0
LOCK_S: Final = 60.0
_BATCH: Final = 250
_KEPT_FIELDS: Final = frozenset(
    {"reservation", "admitted_ms", "key_id", "model", "asked", "delivered", "withheld", "lost", "unconfirmed"}
    | {"price_usd_micros", "usd_micros", "outcome", "calls", "queue_ms", "upstream_ms", "total_ms", "corrects"}
    | {"correction_of", "requests", "upstreams"}
)
"""Fields of a record that are the bill. Key IDs are random; their labels are deleted."""
_EVERY_DAY: Final = UsageFilter(date.min, date.max, None)


class TenantPurger:
    """Begins purges, and carries out those of all processes."""

    def __init__(
        self,
        redis: Client,
        changes: TenantTransactions,
        lock: LeaderLock,
        purge_events: Callable[[str], Awaitable[None]],
    ) -> None:
        """`purge_events` deletes the webhooks of a tenant and its deliveries; it can be repeated."""
        self._redis = redis
        self._changes = changes
        self._lock = lock
        self._purge_events = purge_events
        self._ledger = Ledger(redis)
        self._names = TenantNames(redis)
        self._unindex = load_script(redis, "tenants/delete_lookup")
        self._replace = load_script(redis, "tenants/replace_name")
        self._purges = f"{redis.prefix}:purges"
        """Hash: ID of a tenant -> its pseudonym, until the purge is done."""

    async def begin(self, tenant: str, actor: Actor) -> str:
        """Begins a purge of a disabled tenant. Enabling it before its record is deleted ends the purge.

        Returns: the pseudonym; repeated calls return the same. Raises: GatewayError REDIS_UNAVAILABLE.
        """
        pseudonym = f"{RESERVED}{secrets.token_hex(4)}"
        if not await execute(self._redis, self._redis.hsetnx(self._purges, tenant, pseudonym), int):
            return await execute(self._redis, self._redis.hget(self._purges, tenant), str)
        await self._changes.make(AuditEvent(actor, "tenant.purge", pseudonym), [])
        return pseudonym

    async def run(self) -> None:
        """Never returns. What a round does not finish, the next one does."""
        while True:
            await asyncio.sleep(_EVERY_S)
            with suppress(GatewayError):  # Redis is unavailable
                if await self._lock.acquire() or await self._lock.renew():
                    await self.sweep()

    async def sweep(self) -> None:
        """Goes on with every purge. Raises: GatewayError REDIS_UNAVAILABLE."""
        purges = await execute(self._redis, self._redis.hgetall(self._purges), dict[str, str])
        for tenant, pseudonym in sorted(purges.items()):
            if await self._is_frozen(tenant):
                await self._delete(tenant, is_bill_kept=True)
                if not await self._copy(tenant, pseudonym):
                    return  # another process leads now
                await self._purge_events(tenant)  # no event is emitted any more, and all names still lead to the ID
                await self._replace([self._names.ids, self._names.later], [tenant, pseudonym])
                await self._delete(tenant, is_bill_kept=False)
                await execute(self._redis, self._redis.hdel(self._names.later, tenant), int)
                await execute(self._redis, self._redis.hdel(self._purges, tenant), int)
                _LOG.info("tenant_purged", tenant=pseudonym)

    async def _is_frozen(self, tenant: str) -> bool:
        """Deletes the record of a tenant of which nothing can be charged or corrected any more."""
        fields = await read_fields(self._redis, tenant)
        if not fields:
            return True
        if not read_tenant(tenant, fields).is_disabled:
            await execute(self._redis, self._redis.hdel(self._purges, tenant), int)
            return False
        kinds = ("open", "recent", "erasing")
        if await execute(self._redis, self._redis.exists(*(record(self._redis, tenant, kind) for kind in kinds)), int):
            return False
        edits = [FieldUpdate(HashKind.TENANT, name, value, None) for name, value in fields.items()]
        try:
            await self._changes.make(AuditEvent(Actor(""), "", tenant), edits)
        except ConflictError:
            return False
        return True

    async def _delete(self, tenant: str, *, is_bill_kept: bool) -> None:
        """Deletes the keys of the tenant's hash tag, and the lookups of its API keys."""
        base = record(self._redis, tenant, "")
        key_ids = await execute(self._redis, self._redis.hkeys(f"{base}keys"), list[str])
        for key_id in key_ids:
            await self._unindex([lookup_record(self._redis, key_id)], [tenant])
        bill = tuple(base + kind for kind in ("days", "records_end", "closed", "sums:", "ledger:"))
        async with aclosing(scan_keys(self._redis, f"{base}*")) as parts:
            async for names in parts:
                if doomed := [name for name in names if not (is_bill_kept and name.startswith(bill))]:
                    await execute(self._redis, self._redis.unlink(*doomed), int)
        await execute(self._redis, self._redis.srem(f"{self._redis.prefix}:provisioned_tenants", tenant), int)
        await execute(self._redis, self._redis.zrem(owners_record(self._redis.prefix), tenant), int)

    async def _copy(self, tenant: str, pseudonym: str) -> bool:
        """Returns: False if this process does not lead any more."""
        closed, own = (closed_record(self._redis.prefix, name) for name in (tenant, pseudonym))
        for month in await execute(self._redis, self._redis.hkeys(closed), list[str]):
            await execute(self._redis, self._redis.hset(own, month, write_holder(Holder())), int)
        ends = await self._ledger.records_end(tenant)
        summed = (await self._ledger.days_of([tenant], _EVERY_DAY))[tenant]
        for day in sorted({*ends, *summed}):
            await self._copy_day(TenantDay(day, tenant), TenantDay(day, pseudonym), ends.get(day))
            if not await self._lock.renew():
                return False
        return True

    async def _copy_day(self, had: TenantDay, has: TenantDay, end_s: int | None) -> None:
        """Copies the sums and records of one day, in place of an earlier copy."""
        prefix, redis = self._redis.prefix, self._redis
        records, sums = records_stream(prefix, has), sums_record(prefix, has)
        await execute(redis, redis.unlink(records, sums), int)
        fields = await execute(redis, redis.hgetall(sums_record(prefix, had)), dict[str, str])
        named = list(fields.items())
        for start in range(0, len(named), _BATCH):
            await execute(redis, redis.hset(sums, mapping=dict(named[start : start + _BATCH])), int)
        async with aclosing(self._ledger.stream(had)) as parts:
            async for entries in parts:
                pipeline = redis.pipeline(transaction=False)
                for entry_id, record_fields in entries:
                    bill = [part for item in record_fields.items() if item[0] in _KEPT_FIELDS for part in item]
                    pipeline.execute_command("XADD", records, entry_id, *bill)
                await execute(redis, pipeline.execute(), object)
        number = str(day_number(has.day))
        if end_s is not None:
            await execute(redis, redis.expireat(records, end_s), int)
            await execute(redis, redis.hset(record(redis, has.tenant, "records_end"), number, str(end_s)), int)
        if fields:
            await execute(redis, redis.zadd(days_record(prefix, has.tenant), {number: int(number)}), int)
