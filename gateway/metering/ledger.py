"""The ledger as it is read: sums for reports, records for exports. lua/settle.lua writes both, in one step.

A report reads days, not requests. Invariant: no call asks for more than Redis and this process can handle well within
the deadline of a call, whatever the number of tenants, days, keys and requests: sizes are asked for first.

A record that is corrected moves to the end of its tenant_day and names the entries that it had before (settle.lua). Export
pages give each request once: a place remembers how its tenant_day was read up to there.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from itertools import islice, pairwise
from typing import Final, TypeVar

from redis.asyncio.client import Pipeline

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import LedgerEntry, Sums, TenantDay, UsageFilter, UsageReport
from gateway.metering.ledger_keys import (
    day_number,
    days_record,
    ends_record,
    read_ends,
    read_record,
    read_sums,
    records_stream,
    sums_record,
)
from gateway.redis import Client, execute
from gateway.tenants.records import NAMES

_KEYS_PER_CALL: Final = 100
_FIELDS_PER_CALL: Final = 5_000
"""Of sums, or days: read and decoded in some 10 ms."""
_RECORDS_PER_CALL: Final = 250
"""Of 17 fields each."""
READINGS_MAX: Final = 32
"""Readings of a tenant_day that a place remembers; those of a quiet tenant_day are one. Only a record that was read earlier, and
moved before the first of them, is given twice: with pages of 250 or more, 8,000 records lie between."""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
_T = TypeVar("_T")
_A = TypeVar("_A")

Entry = tuple[str, dict[str, str]]
"""A record as it is kept: id and fields."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One read of a part of a tenant_day."""

    end: str
    """The entry up to which the records were given."""
    newest: str
    """The newest entry of the tenant_day at that moment: what is newer was written later."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands, and how its tenant_day was read up to there, the oldest reading first."""

    tenant_day: TenantDay
    id: str
    """In the tenant_day's stream."""
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Some records in order, and behind which the next page begins; None at the end."""

    records: tuple[LedgerEntry, ...]
    end: Place | None


class Ledger:
    """What was used, for reading."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def fill(self, report: UsageReport, usage_filter: UsageFilter) -> None:
        """Read into a report the sums that it needs.

        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        Redis: one round trip, two for 100 tenants and two for 100 tenant_days; no record is read.
        """
        days = await self._days(usage_filter)
        tenant_days = _by_tenant(days) if report.is_by_tenant_first else _by_day(days)
        for batch in _portions(filter(report.wants, tenant_days)):
            for tenant_day, sums in zip(batch, await self.sums(batch), strict=True):
                report.add(tenant_day, sums)

    async def records(self, usage_filter: UsageFilter, after: Place | None, limit: int) -> RecordPage:
        """The oldest records behind `after`: by day, then tenant, then the moment of settlement.

        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        """
        tenant_days = _by_day(await self._days(usage_filter))
        ahead = (tenant_day for tenant_day in tenant_days if after is None or tenant_day >= after.tenant_day)
        found: list[tuple[Place, LedgerEntry]] = []
        place = after
        async with aclosing(self._entries(ahead, after)) as pieces:
            async for tenant_day, entries, newest in pieces:
                readings = place.readings if place and place.tenant_day == tenant_day else ()
                for name, fields in entries:
                    place = Place(tenant_day, name, _with(readings, Reading(name, newest)))
                    if not _was_given(name, fields, readings):
                        found.append((place, read_record(tenant_day.tenant, fields)))
                if len(found) > limit:
                    break
        page = found[:limit]
        return RecordPage(tuple(record for _, record in page), page[-1][0] if len(found) > limit else None)

    async def count(self, usage_filter: UsageFilter) -> int:
        """How many records there are. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        counted = 0
        for batch in _portions(_by_day(await self._days(usage_filter))):
            counted += sum(
                await self._each(batch, lambda pipe, tenant_day: pipe.xlen(records_stream(tenant_day)), list[int])
            )
        return counted

    async def tenants(self, usage_filter: UsageFilter) -> list[str]:
        """The tenants that are meant, by name. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        name = usage_filter.tenant
        if name is None:
            return sorted(await execute(self._redis, self._redis.smembers(NAMES), set[str]))
        if not await execute(self._redis, self._redis.sismember(NAMES, name), int):
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no tenant named '{name[:64]}'.", param="tenant")
        return [name]

    async def sums(self, tenant_days: Sequence[TenantDay]) -> list[Sums]:
        """Each tenant_day's sums, empty where there are none. Raises: GatewayError REDIS_UNAVAILABLE."""
        sizes = await self._each(tenant_days, lambda pipe, tenant_day: pipe.hlen(sums_record(tenant_day)), list[int])
        found: list[Sums] = []
        for group in _groups(tenant_days, sizes, _FIELDS_PER_CALL):
            found += [read_sums(fields) for fields in await self._hashes(group)]
        return found

    async def have_records(self, tenant_days: Sequence[TenantDay]) -> list[bool]:
        """Whether each tenant_day's records are there. Raises: GatewayError REDIS_UNAVAILABLE."""
        found: list[int] = []
        for batch in _portions(tenant_days):
            found += await self._each(
                batch, lambda pipe, tenant_day: pipe.exists(records_stream(tenant_day)), list[int]
            )
        return [bool(count) for count in found]

    async def stream(self, tenant_day: TenantDay, after: str | None = None) -> AsyncGenerator[list[Entry], None]:
        """A tenant_day's records behind `after`, piece by piece. Raises: GatewayError REDIS_UNAVAILABLE."""
        async for entries, _ in self._pieces(tenant_day, after):
            yield entries

    async def records_end(self, tenant: str) -> dict[date, int]:
        """Until when the records of each day are kept, Unix seconds: 3,650 days in ten years.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        return read_ends(await execute(self._redis, self._redis.hgetall(ends_record(tenant)), dict[str, str]))

    async def days_of(self, tenants: Sequence[str], usage_filter: UsageFilter) -> dict[str, list[date]]:
        """The days on which the tenants have sums. Raises: GatewayError REDIS_UNAVAILABLE."""
        first, last = day_number(usage_filter.first), day_number(usage_filter.last)
        sizes = await self._each(tenants, lambda pipe, name: pipe.zcount(days_record(name), first, last), list[int])
        found: dict[str, list[date]] = {}
        for group in _groups(tenants, sizes, _FIELDS_PER_CALL):
            days = await self._each(
                group, lambda pipe, name: pipe.zrangebyscore(days_record(name), first, last), list[list[str]]
            )
            found |= {name: [date.fromisoformat(day) for day in days] for name, days in zip(group, days, strict=True)}
        return found

    async def _days(self, usage_filter: UsageFilter) -> dict[str, list[date]]:
        found: dict[str, list[date]] = {}
        for batch in _portions(await self.tenants(usage_filter)):
            found |= await self.days_of(batch, usage_filter)
        return found

    async def _entries(
        self, tenant_days: Iterable[TenantDay], after: Place | None
    ) -> AsyncGenerator[tuple[TenantDay, list[Entry], str], None]:
        """The records of many tenant_days, each piece with the tenant_day's newest entry at that moment.

        Small tenant_days come together in one round trip, large ones piece by piece.
        """
        starts = {after.tenant_day: after.id} if after else {}
        for batch in _portions(tenant_days):
            sizes = await self._each(batch, lambda pipe, tenant_day: pipe.xlen(records_stream(tenant_day)), list[int])
            for group in _groups(batch, sizes, _RECORDS_PER_CALL):
                if len(group) == 1:
                    async for entries, newest in self._pieces(group[0], starts.get(group[0])):
                        yield group[0], entries, newest
                else:
                    for tenant_day, entries in zip(group, await self._whole(group, starts), strict=True):
                        yield tenant_day, entries, entries[-1][0] if entries else ""

    async def _pieces(self, tenant_day: TenantDay, after: str | None) -> AsyncGenerator[tuple[list[Entry], str], None]:
        while True:
            start = "-" if after is None else f"({after}"
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xrange(records_stream(tenant_day), start, "+", count=_RECORDS_PER_CALL)
            pipeline.xrevrange(
                records_stream(tenant_day), count=1
            )  # last: what comes between is given twice, not never
            entries, newest = await execute(self._redis, pipeline.execute(), list[list[Entry]])
            if entries:
                yield entries, newest[0][0] if newest else entries[-1][0]
                after = entries[-1][0]
            if len(entries) < _RECORDS_PER_CALL:
                return

    async def _whole(self, tenant_days: Sequence[TenantDay], starts: Mapping[TenantDay, str]) -> list[list[Entry]]:
        def put(pipe: Pipeline, tenant_day: TenantDay) -> object:
            start = f"({starts[tenant_day]}" if tenant_day in starts else "-"
            return pipe.xrange(records_stream(tenant_day), start, "+")

        return await self._each(tenant_days, put, list[list[Entry]])

    async def _hashes(self, tenant_days: Sequence[TenantDay]) -> list[dict[str, str]]:
        """All sums of some tenant_days; those of one that is alone are read piece by piece, however many they are."""
        if len(tenant_days) > 1:
            return await self._each(
                tenant_days, lambda pipe, tenant_day: pipe.hgetall(sums_record(tenant_day)), list[dict[str, str]]
            )
        found: dict[str, str] = {}
        cursor = 0
        while True:
            call = self._redis.hscan(sums_record(tenant_days[0]), cursor, count=_FIELDS_PER_CALL)
            cursor, fields = await execute(self._redis, call, tuple[int, dict[str, str]])
            found |= fields
            if not cursor:
                return [found]

    async def _each(self, items: Sequence[_T], put: Callable[[Pipeline, _T], object], kind: type[list[_A]]) -> list[_A]:
        """The answers to one command an item, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for item in items:
            put(pipeline, item)
        return await execute(self._redis, pipeline.execute(), kind)


def _with(readings: tuple[Reading, ...], reading: Reading) -> tuple[Reading, ...]:
    """The readings with one more; while nothing is written, one stands for all."""
    earlier = readings[:-1] if readings and readings[-1].newest == reading.newest else readings
    return (*earlier, reading)[-READINGS_MAX:]


def _was_given(name: str, fields: Mapping[str, str], readings: Sequence[Reading]) -> bool:
    """Whether a corrected record was met before it moved here: some reading passed an entry that was still there."""
    entries = (*filter(_ENTRY_ID.fullmatch, fields.get("corrects", "").split()), name)
    for earlier, later in pairwise(map(_moment, entries)):
        reading = next((one for one in readings if earlier <= _moment(one.end)), None)
        if reading and later > _moment(reading.newest):
            return True
    return False


def _moment(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


def _by_tenant(days: Mapping[str, Sequence[date]]) -> Iterator[TenantDay]:
    return (TenantDay(day, tenant) for tenant in sorted(days) for day in days[tenant])


def _by_day(days: Mapping[str, Sequence[date]]) -> Iterator[TenantDay]:
    tenants: dict[date, list[str]] = {}
    for tenant in sorted(days):
        for day in days[tenant]:
            tenants.setdefault(day, []).append(tenant)
    return (TenantDay(day, tenant) for day in sorted(tenants) for tenant in tenants[day])


def _portions(items: Iterable[_T]) -> Iterator[list[_T]]:
    """As many as one call may name."""
    remaining = iter(items)
    while portion := list(islice(remaining, _KEYS_PER_CALL)):
        yield portion


def _groups(items: Sequence[_T], weights: Sequence[int], most: int) -> Iterator[list[_T]]:
    """Neighbours whose weights add up to no more than `most`, and one alone that weighs more."""
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
