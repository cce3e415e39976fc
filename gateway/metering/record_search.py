"""Finds records in either direction, by what they contain. There is no index: a search reads the records of a period.

Invariant: a page reads at most 5,000 records and 2,000 tenant days, so it may have fewer records than asked for, or
none, and still a Place to continue at.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby
from operator import itemgetter
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
_HELD_MAX: Final = 5_000
"""Limit on the records that are held for the next pieces: about 10 MB."""
_COUNT: Final = ("COUNT", _RECORDS_PER_CALL)
_BEGINNING: Final = "0-0"
_Moment = tuple[int, int, str]
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
            place = after if after and day == after.tenant_day.day else None
            tenant_days = list(group)
            sizes = [size for batch in batches(tenant_days) for size in await self._sizes(batch)]
            reading = _DayReading.at(tenant_days, place)
            while True:
                is_whole = await self._read_newest(reading, dict(zip(tenant_days, sizes, strict=True)))
                records, reading.held = reading.held[:_RECORDS_PER_CALL], reading.held[_RECORDS_PER_CALL:]
                is_last = len(records) < _RECORDS_PER_CALL
                place = Place(tenant_days[-1], _BEGINNING) if is_last else Place(records[-1][1], records[-1][2][0])
                yield [record[1:] for record in records], len(tenant_days), place
                if is_last:
                    break
                if not is_whole:
                    reading = _DayReading.at(tenant_days, place)

    async def _read_newest(self, reading: "_DayReading", sizes: Mapping[TenantDay, int]) -> bool:
        """Reads on until the newest 250 unread records of a day are held; of each tenant only what may be among them.

        Returns: whether all that were read are held; if not, these 250 alone are.
        """
        is_whole, start = True, 0
        pending = [day for day, end in reading.ends.items() if end is not None]
        while start < len(pending):
            is_full = len(reading.held) >= _RECORDS_PER_CALL
            totals = accumulate(sizes[day] for day in pending[start : start + _STREAMS_PER_CALL])
            end = start + (
                _STREAMS_PER_CALL if is_full else max(1, sum(total <= _RECORDS_PER_CALL for total in totals))
            )
            oldest = reading.held[_RECORDS_PER_CALL - 1][2][0] if is_full else "-"
            some = [day for day in pending[start:end] if not is_full or reading.reaches(day, oldest)]
            calls = [("XREVRANGE", self._stream(day), str(reading.ends[day]), oldest, *_COUNT) for day in some]
            for day, entries in zip(some, await self._each(list[list[Entry]], calls), strict=True):
                reading.add(day, entries, None if oldest == "-" else f"({oldest}")
            if len(reading.held) > _HELD_MAX:
                is_whole, reading.held = False, reading.held[:_RECORDS_PER_CALL]
            start = end
        return is_whole

    def _forward(self, tenant_day: TenantDay, after: str | None) -> tuple[str | int, ...]:
        start = "-" if after is None else f"({after}"
        return ("XRANGE", self._stream(tenant_day), start, "+", *_COUNT)

    async def _sizes(self, tenant_days: Sequence[TenantDay]) -> list[int]:
        return await self._each(list[int], [("XLEN", self._stream(day)) for day in tenant_days])

    async def _each(self, kind: type[list[_T]], calls: Iterable[tuple[str | int, ...]]) -> list[_T]:
        """Returns the replies to the calls, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return await execute(self._redis, pipeline.execute(), kind)


@dataclass(slots=True)
class _DayReading:
    """How far the records of each tenant of a day were read, and those that were read and not yet returned."""

    ends: dict[TenantDay, str | None]
    """The newest unread entry, as XREVRANGE takes it; None if all were read."""
    held: list[tuple[_Moment, TenantDay, Entry]] = field(default_factory=list)
    """Newest first."""

    @staticmethod
    def at(tenant_days: Sequence[TenantDay], before: Place | None) -> "_DayReading":
        """Returns a reading that begins before a place."""
        if before is None:
            return _DayReading(dict.fromkeys(tenant_days, "+"))
        tenant = before.tenant_day.tenant
        return _DayReading({day: before.id if day.tenant < tenant else f"({before.id}" for day in tenant_days})

    def reaches(self, tenant_day: TenantDay, oldest: str) -> bool:
        """Returns whether unread entries of a tenant may be newer than another one."""
        end = self.ends[tenant_day] or ""
        return end == "+" or _moment(end.removeprefix("("), "") > _moment(oldest, "")

    def add(self, tenant_day: TenantDay, entries: list[Entry], end: str | None) -> None:
        """Adds what was read; `end` if nothing more is between."""
        self.ends[tenant_day] = f"({entries[-1][0]}" if len(entries) == _RECORDS_PER_CALL else end
        if entries:
            self.held += [(_moment(entry[0], tenant_day.tenant), tenant_day, entry) for entry in entries]
            self.held.sort(key=itemgetter(0), reverse=True)


def _moment(entry_id: str, tenant: str) -> _Moment:
    """Returns the time of a settlement, and its tenant, which orders those of one time."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence), tenant
