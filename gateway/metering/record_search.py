"""Finds records in either direction, by what they contain. There is no index: a search reads the records of a period.

Invariant: a page reads at most 5,000 records and 2,000 tenant days, so it may have fewer records than asked for, or
none, and still a Place to continue at.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
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
_BEGINNING: Final = "0-0"
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
        """Returns a page by day, tenant and settlement time, and how many records it read.

        A record that is corrected meanwhile moves to the end of its tenant day: oldest first, it can be returned twice;
        newest first, it can be missed.
        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        Redis: that of `Ledger.tenant_days`, and at most 40 more round trips, each of at most 250 records.
        """
        days = await self._ledger.tenant_days(selection)
        if newest_first:
            days.reverse()
        if after:
            days = [day for day in days if day == after.tenant_day or (day < after.tenant_day) == newest_first]
        found: list[LedgerEntry] = []
        place, count, days_read = after, 0, 0
        async with aclosing(self._pieces(days, after, newest_first=newest_first)) as pieces:
            async for tenant_day, entries in pieces:
                if count >= _RECORDS_MAX or days_read >= _TENANT_DAYS_MAX:
                    return RecordPage(tuple(found), place), count
                count += len(entries)
                for name, fields in entries:
                    entry = read_record(tenant_day.tenant, fields)
                    if wanted.matches(entry):
                        if len(found) == limit:
                            return RecordPage(tuple(found), place), count
                        found.append(entry)
                    place = Place(tenant_day, name)
                if len(entries) < _RECORDS_PER_CALL:
                    days_read += 1
                    place = place if entries else Place(tenant_day, _BEGINNING)
        return RecordPage(tuple(found), None), count

    async def _pieces(
        self, days: Sequence[TenantDay], after: Place | None, *, newest_first: bool
    ) -> AsyncGenerator[tuple[TenantDay, list[Entry]], None]:
        """Yields the records of each tenant day in pieces. The last one of a tenant day is not full."""
        for batch in batches(days):
            sizes = await self._each(list[int], [("XLEN", self._stream(day)) for day in batch])
            weights = [min(size, _RECORDS_PER_CALL) for size in sizes]
            for group in grouped(batch, weights, _RECORDS_PER_CALL):
                calls = [self._reading(day, _continued(day, after), newest_first=newest_first) for day in group]
                for tenant_day, first in zip(group, await self._each(list[list[Entry]], calls), strict=True):
                    entries = first
                    yield tenant_day, entries
                    while len(entries) == _RECORDS_PER_CALL:
                        call = self._reading(tenant_day, entries[-1][0], newest_first=newest_first)
                        [entries] = await self._each(list[list[Entry]], [call])
                        yield tenant_day, entries

    def _reading(self, tenant_day: TenantDay, after: str | None, *, newest_first: bool) -> tuple[str | int, ...]:
        stream, count = self._stream(tenant_day), ("COUNT", _RECORDS_PER_CALL)
        if newest_first:
            # Redis refuses "(0-0" as an end; no record has that ID or a lower one.
            end = "+" if after is None else f"({after}" if any(map(int, after.split("-"))) else "0-0"
            return ("XREVRANGE", stream, end, "-", *count)
        return ("XRANGE", stream, "-" if after is None else f"({after}", "+", *count)

    async def _each(self, kind: type[list[_T]], calls: Iterable[tuple[str | int, ...]]) -> list[_T]:
        """Returns the replies to the calls, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return await execute(self._redis, pipeline.execute(), kind)


def _continued(tenant_day: TenantDay, after: Place | None) -> str | None:
    return after.id if after and after.tenant_day == tenant_day else None
