"""Finds records in either direction, by what they contain. There is no index: a search reads the records of a period.

Invariant: a page reads at most 5,000 records and 2,000 tenant days, so it may have fewer records than asked for, or
none, and still a Place to continue at.
"""

import heapq
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Final, TypeVar

from gateway.domain.usage import LedgerEntry, TenantDay, UsageFilter
from gateway.metering.ledger import Entry, Ledger, RecordPage, batches
from gateway.metering.ledger_keys import read_record, records_stream
from gateway.metering.record_places import Place
from gateway.redis import Client, execute
from gateway.tenants.store import grouped

_RECORDS_PER_CALL: Final = 250
_RECORDS_MAX: Final = 5_000
"""Limit on the records of a page: 20 calls."""
_TENANT_DAYS_MAX: Final = 2_000
"""Limit on the tenant days of a page: 20 calls for their sizes."""
_STREAMS_PER_CALL: Final = 20
"""Tenants per call once there are 250 records, which the newest ones of these tenants rarely replace."""
_BEGINNING: Final = "0-0"
_Piece = tuple[list[tuple[TenantDay, Entry]], int, Place]
"""Records, how many tenant days were read for them, and the place behind them."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Selects records by exact values; None selects all."""

    request_id: str | None = None
    key: str | None = None
    model: str | None = None
    outcome: str | None = None

    def matches(self, entry: LedgerEntry) -> bool:
        pairs = (
            (self.request_id, entry.request_id),
            (self.key, entry.key_id),
            (self.model, entry.model),
            (self.outcome, entry.outcome),
        )
        return all(wanted in {None, value} for wanted, value in pairs)


class RecordSearch:
    """Searches the records of a ledger."""

    def __init__(self, redis: Client, ledger: Ledger) -> None:
        self._redis, self._ledger = redis, ledger
        self._stream = partial(records_stream, redis.prefix)

    async def find(
        self, selection: UsageFilter, wanted: RecordFilter, after: Place | None, limit: int, *, newest_first: bool
    ) -> tuple[RecordPage, int]:
        """Returns a page, and how many records it read.

        Oldest first is by day, tenant and time of settlement; newest first by day and time of settlement.
        A record that is corrected meanwhile moves to the end of its tenant day: oldest first, it can be returned twice;
        newest first, it can be missed.
        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        Redis: that of `Ledger.tenant_days`, and at most 40 more round trips, each of at most 250 records. Newest first
        takes one more for each 20 tenants of a day and 250 records.
        """
        days = await self._ledger.tenant_days(selection)
        found: list[LedgerEntry] = []
        place, count, days_read = after, 0, 0
        async with aclosing((self._merged if newest_first else self._pieces)(days, after)) as pieces:
            async for records, days_done, end in pieces:
                if count >= _RECORDS_MAX or days_read >= _TENANT_DAYS_MAX:
                    return RecordPage(tuple(found), place), count
                count += len(records)
                for tenant_day, (name, fields) in records:
                    entry = read_record(tenant_day.tenant, fields)
                    if wanted.matches(entry):
                        if len(found) == limit:
                            return RecordPage(tuple(found), place), count
                        found.append(entry)
                    place = Place(tenant_day, name)
                days_read, place = days_read + days_done, end
        return RecordPage(tuple(found), None), count

    async def _pieces(self, days: Sequence[TenantDay], after: Place | None) -> AsyncGenerator[_Piece, None]:
        """Yields the records of each tenant day in pieces, oldest first. The last one of a tenant day is not full."""
        remaining = [day for day in days if after is None or day >= after.tenant_day]
        for batch in batches(remaining):
            weights = [min(size, _RECORDS_PER_CALL) for size in await self._sizes(batch)]
            for group in grouped(batch, weights, _RECORDS_PER_CALL):
                starts = [after.id if after and after.tenant_day == day else None for day in group]
                calls = [self._forward(*reading) for reading in zip(group, starts, strict=True)]
                for tenant_day, first in zip(group, await self._each(list[list[Entry]], calls), strict=True):
                    entries = first
                    while True:
                        is_last = len(entries) < _RECORDS_PER_CALL
                        end = Place(tenant_day, entries[-1][0] if entries else _BEGINNING)
                        yield [(tenant_day, entry) for entry in entries], int(is_last), end
                        if is_last:
                            break
                        [entries] = await self._each(list[list[Entry]], [self._forward(tenant_day, entries[-1][0])])

    async def _merged(self, days: Sequence[TenantDay], after: Place | None) -> AsyncGenerator[_Piece, None]:
        """Yields the records of all tenants of each day in pieces, newest first. The last one of a day is not full."""
        for day, group in groupby(reversed(days), key=lambda one: one.day):
            if after and (day > after.tenant_day.day or (day == after.tenant_day.day and after.id == _BEGINNING)):
                continue
            tenant_days, place = list(group), after if after and day == after.tenant_day.day else None
            sizes = [size for batch in batches(tenant_days) for size in await self._sizes(batch)]
            while True:
                records = await self._newest(tenant_days, sizes, place)
                is_last = len(records) < _RECORDS_PER_CALL
                place = Place(tenant_days[-1], _BEGINNING) if is_last else Place(records[-1][0], records[-1][1][0])
                yield records, len(tenant_days), place
                if is_last:
                    break

    async def _newest(
        self, tenant_days: Sequence[TenantDay], sizes: Sequence[int], before: Place | None
    ) -> list[tuple[TenantDay, Entry]]:
        """Returns the newest 250 records of one day before a place; reads only those that may be among them."""
        newest: list[tuple[TenantDay, Entry]] = []
        start = 0
        while start < len(tenant_days):
            is_full = len(newest) == _RECORDS_PER_CALL
            fitting = sum(total <= _RECORDS_PER_CALL for total in accumulate(sizes[start : start + _STREAMS_PER_CALL]))
            end = start + (_STREAMS_PER_CALL if is_full else max(1, fitting))
            some, oldest = tenant_days[start:end], newest[-1][1][0] if is_full else "-"
            calls = [self._backward(day, before, oldest) for day in some]
            for day, entries in zip(some, await self._each(list[list[Entry]], calls), strict=True):
                newest += [(day, entry) for entry in entries]
            newest = heapq.nlargest(_RECORDS_PER_CALL, newest, key=_moment)
            start = end
        return newest

    def _forward(self, tenant_day: TenantDay, after: str | None) -> tuple[str | int, ...]:
        start = "-" if after is None else f"({after}"
        return ("XRANGE", self._stream(tenant_day), start, "+", "COUNT", _RECORDS_PER_CALL)

    def _backward(self, tenant_day: TenantDay, before: Place | None, oldest: str) -> tuple[str | int, ...]:
        end = "+"
        if before:
            end = before.id if tenant_day.tenant < before.tenant_day.tenant else f"({before.id}"
        return ("XREVRANGE", self._stream(tenant_day), end, oldest, "COUNT", _RECORDS_PER_CALL)

    async def _sizes(self, tenant_days: Sequence[TenantDay]) -> list[int]:
        return await self._each(list[int], [("XLEN", self._stream(day)) for day in tenant_days])

    async def _each(self, kind: type[list[_T]], calls: Iterable[tuple[str | int, ...]]) -> list[_T]:
        """Returns the replies to the calls, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return await execute(self._redis, pipeline.execute(), kind)


def _moment(record: tuple[TenantDay, Entry]) -> tuple[int, int, str]:
    """Returns the time of a record's settlement, and its tenant, which orders those of one time."""
    tenant_day, (name, _) = record
    ms, _, sequence = name.partition("-")
    return int(ms), int(sequence), tenant_day.tenant
