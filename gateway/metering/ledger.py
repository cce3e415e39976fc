"""Reads the ledger: daily sums for reports, records for exports. lua/settle.lua writes both atomically.

Reports read days, not requests. Invariant: no call requests more than Redis and this process can handle within a
call's deadline, whatever the number of tenants, days, keys and requests. Sizes are read first.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from gateway.domain.attribution import BATCH
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import Holder, Holders, LedgerEntry, Sums, TenantDay, UsageFilter, UsageReport
from gateway.metering.ledger_keys import (
    batch_sums_record,
    closed_record,
    day_number,
    days_record,
    read_holder,
    read_integer,
    read_record,
    read_split_sums,
    read_sums,
    records_stream,
    select_split,
    split_sums_record,
    sums_record,
)
from gateway.metering.record_places import Place, Reading, was_returned, with_reading
from gateway.redis import Client, execute
from gateway.tenants.records import names_record, read_tenant, record
from gateway.tenants.store import grouped

_KEYS_PER_CALL: Final = 100
_FIELDS_PER_CALL: Final = 5_000
"""Fields of sums or days per call: about 10 ms to read and decode."""
_SPLIT_DAYS_PER_CALL: Final = 10
"""Tenant days whose split sums are read together: each may have thousands of values."""
_RECORDS_PER_CALL: Final = 250
"""Records per call, of 17 fields each."""
_T = TypeVar("_T")
_A = TypeVar("_A")

Entry = tuple[str, dict[str, str]]
"""A stored record: ID and fields."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records in order, and the Place after which the next page starts; None at the end."""

    records: tuple[LedgerEntry, ...]
    end: Place | None


class Ledger:
    """Reads recorded usage."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._records_stream = partial(records_stream, redis.prefix)
        self._days_record = partial(days_record, redis.prefix)

    async def fill(self, report: UsageReport, usage_filter: UsageFilter) -> None:
        """Fills a report with the sums that it needs.

        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        Redis: one round trip, two per 100 tenants, one more per 100 by cost centre or owner, and two per 100 tenant
        days, or four per 10 if they are split; reads no records.
        """
        days = await self._days(usage_filter)
        if report.needs_holders:
            report.holders = await self.holders(list(days))
        tenant_days = _by_tenant(days) if report.is_by_tenant_first else _by_day(days)
        days_per_call = _SPLIT_DAYS_PER_CALL if report.split else _KEYS_PER_CALL
        for batch in batches(filter(report.wants, tenant_days), days_per_call):
            for tenant_day, sums in zip(batch, await self.sums(batch, report.split), strict=True):
                report.add(tenant_day, sums)

    async def records(self, usage_filter: UsageFilter, after: Place | None, limit: int) -> RecordPage:
        """Returns the oldest records after `after`, by day, tenant and settlement time.

        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        """
        tenant_days = _by_day(await self._days(usage_filter))
        found: list[tuple[Place, LedgerEntry]] = []
        place = after
        async with aclosing(self._entries(tenant_days, after)) as pieces:
            async for tenant_day, entries, newest in pieces:
                readings = place.readings if place and place.tenant_day == tenant_day else ()
                for name, fields in entries:
                    place = Place(tenant_day, name, with_reading(readings, Reading(name, newest)))
                    if not was_returned(name, fields, readings):
                        found.append((place, read_record(tenant_day.tenant, fields)))
                if len(found) > limit:
                    break
        page = found[:limit]
        return RecordPage(tuple(record for _, record in page), page[-1][0] if len(found) > limit else None)

    async def count(self, usage_filter: UsageFilter) -> int:
        """Returns the number of records. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        counted = 0
        for batch in batches(map(self._records_stream, _by_day(await self._days(usage_filter)))):
            counted += sum(await self._each(list[int], "XLEN", batch))
        return counted

    async def tenants(self, usage_filter: UsageFilter) -> list[str]:
        """Returns the selected tenants by name. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        name = usage_filter.tenant
        if name is None:
            return sorted(await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str]))
        if not await execute(self._redis, self._redis.sismember(names_record(self._redis.prefix), name), int):
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no tenant named '{name[:64]}'.", param="tenant")
        return [name]

    async def tenant_days(self, usage_filter: UsageFilter) -> list[TenantDay]:
        """Returns the selected sheets in order. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        return list(_by_day(await self._days(usage_filter)))

    async def sums(self, tenant_days: Sequence[TenantDay], split: str = "") -> list[Sums]:
        """Returns the sums of each tenant day, split by a dimension; empty if it has none.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        split_fields: list[dict[str, str]] = [{}] * len(tenant_days)
        # First, so that a request settled in between counts as one without a value, and not twice.
        if split == BATCH:
            split_fields = await self._hashes([batch_sums_record(self._redis.prefix, day) for day in tenant_days])
        elif split:
            hashes = await self._hashes([split_sums_record(self._redis.prefix, day) for day in tenant_days])
            split_fields = [select_split(fields, split) for fields in hashes]
        sums = await self._hashes([sums_record(self._redis.prefix, day) for day in tenant_days])
        return [read_sums(*fields) for fields in zip(sums, split_fields, strict=True)]

    async def split_sums(self, tenant_day: TenantDay) -> Sums:
        """Returns the sums by tag, user and upstream. Raises: GatewayError REDIS_UNAVAILABLE."""
        [fields] = await self._hashes([split_sums_record(self._redis.prefix, tenant_day)])
        return read_split_sums(fields)

    async def holders(self, tenants: Sequence[str]) -> dict[str, Holders]:
        """Returns the holders by tenant. Raises: GatewayError REDIS_UNAVAILABLE."""
        found: dict[str, Holders] = {}
        for names in batches(tenants):
            keys = [record(self._redis, name, "tenant") for name in names]
            keys += [closed_record(self._redis.prefix, name) for name in names]
            hashes = await self._each(list[dict[str, str]], "HGETALL", keys)
            for name, fields, closed in zip(names, hashes, hashes[len(names) :], strict=False):
                tenant = read_tenant(name, fields)
                present = Holder(tenant.cost_centre, tenant.owner, tenant.tags)
                found[name] = Holders(present, {month: read_holder(text) for month, text in closed.items()})
        return found

    async def _hashes(self, keys: list[str]) -> list[dict[str, str]]:
        sizes = await self._each(list[int], "HLEN", keys)
        found: list[dict[str, str]] = []
        for group in grouped(keys, sizes, _FIELDS_PER_CALL):
            if len(group) > 1:
                found += await self._each(list[dict[str, str]], "HGETALL", group)
            else:
                found.append(await self._scan(group[0]))
        return found

    async def have_records(self, tenant_days: Sequence[TenantDay]) -> list[bool]:
        """Returns for each tenant day if its records exist. Raises: GatewayError REDIS_UNAVAILABLE."""
        found: list[int] = []
        for batch in batches(map(self._records_stream, tenant_days)):
            found += await self._each(list[int], "EXISTS", batch)
        return [bool(count) for count in found]

    async def stream(self, tenant_day: TenantDay, after: str | None = None) -> AsyncGenerator[list[Entry], None]:
        """Yields a tenant day's records after `after` in batches. Raises: GatewayError REDIS_UNAVAILABLE."""
        async for entries, _ in self._pieces(tenant_day, after):
            yield entries

    async def records_end(self, tenant: str) -> dict[date, int]:
        """Returns when the records of each day expire, in Unix seconds: 3,650 days in ten years.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        call = self._redis.hgetall(f"{self._redis.prefix}:{{{tenant}}}:records_end")
        ends = await execute(self._redis, call, dict[str, str])
        return {date.fromisoformat(day): read_integer(end_s) for day, end_s in ends.items()}

    async def days_of(self, tenants: Sequence[str], usage_filter: UsageFilter) -> dict[str, list[date]]:
        """Returns the days on which the tenants have sums. Raises: GatewayError REDIS_UNAVAILABLE."""
        first, last = day_number(usage_filter.first), day_number(usage_filter.last)
        found: list[list[str]] = []
        for keys in batches(map(self._days_record, tenants)):
            sizes = await self._each(list[int], "ZCOUNT", keys, first, last)
            for group in grouped(keys, sizes, _FIELDS_PER_CALL):
                found += await self._each(list[list[str]], "ZRANGEBYSCORE", group, first, last)
        return {name: [*map(date.fromisoformat, days)] for name, days in zip(tenants, found, strict=True)}

    async def _days(self, usage_filter: UsageFilter) -> dict[str, list[date]]:
        return await self.days_of(await self.tenants(usage_filter), usage_filter)

    async def _entries(
        self, tenant_days: Iterable[TenantDay], after: Place | None
    ) -> AsyncGenerator[tuple[TenantDay, list[Entry], str], None]:
        """Yields the records of many tenant days in batches, each with the tenant day's newest entry at that time.

        Small tenant days share a round trip; large ones, and that of `after`, are read in batches.
        """
        tenant_days = list(tenant_days)
        if after is not None and after.tenant_day in tenant_days:
            async for entries, newest in self._pieces(after.tenant_day, after.id):
                yield after.tenant_day, entries, newest
        for batch in batches(day for day in tenant_days if after is None or day > after.tenant_day):
            sizes = await self._each(list[int], "XLEN", map(self._records_stream, batch))
            for group in grouped(batch, sizes, _RECORDS_PER_CALL):
                if len(group) == 1:
                    async for entries, newest in self._pieces(group[0], None):
                        yield group[0], entries, newest
                else:
                    whole = await self._each(list[list[Entry]], "XRANGE", map(self._records_stream, group), "-", "+")
                    for tenant_day, entries in zip(group, whole, strict=True):
                        yield tenant_day, entries, entries[-1][0] if entries else ""

    async def _pieces(self, tenant_day: TenantDay, after: str | None) -> AsyncGenerator[tuple[list[Entry], str], None]:
        while True:
            start = "-" if after is None else f"({after}"
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xrange(self._records_stream(tenant_day), start, "+", count=_RECORDS_PER_CALL)
            # Last, so that a record written in between is read twice rather than missed.
            pipeline.xrevrange(self._records_stream(tenant_day), count=1)
            entries, newest = await execute(self._redis, pipeline.execute(), list[list[Entry]])
            if entries:
                yield entries, newest[0][0] if newest else entries[-1][0]
                after = entries[-1][0]
            if len(entries) < _RECORDS_PER_CALL:
                return

    async def _scan(self, key: str) -> dict[str, str]:
        """Reads a large hash in batches."""
        found: dict[str, str] = {}
        cursor = 0
        while True:
            call = self._redis.hscan(key, cursor, count=_FIELDS_PER_CALL)
            cursor, fields = await execute(self._redis, call, tuple[int, dict[str, str]])
            found |= fields
            if not cursor:
                return found

    async def _each(self, kind: type[list[_A]], command: str, keys: Iterable[str], *args: str | int) -> list[_A]:
        """Returns the replies to one command per key, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.execute_command(command, key, *args)
        return await execute(self._redis, pipeline.execute(), kind)


def _by_tenant(days: Mapping[str, Sequence[date]]) -> Iterator[TenantDay]:
    return (TenantDay(day, tenant) for tenant in sorted(days) for day in days[tenant])


def _by_day(days: Mapping[str, Sequence[date]]) -> Iterator[TenantDay]:
    tenants: dict[date, list[str]] = {}
    for tenant in sorted(days):
        for day in days[tenant]:
            tenants.setdefault(day, []).append(tenant)
    return (TenantDay(day, tenant) for day in sorted(tenants) for tenant in tenants[day])


def batches(items: Iterable[_T], size: int = _KEYS_PER_CALL) -> Iterator[list[_T]]:
    remaining = iter(items)
    while portion := list(islice(remaining, size)):
        yield portion
