"""The proof of the ledger: sums that are recomputed from the records.

Settlements go on meanwhile. Invariant: what is reported as a difference was found twice running, each time between two
readings of the sums that were the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from gateway.domain.usage import Discrepancy, Reconciliation, Sums, TenantDay, UsageFilter, UsageTotals, differences
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_amounts

_RECORDS_A_CALL: Final = 5_000
_SHEET_COST: Final = 20
"""A sheet takes some round trips even when it is empty: they count as so many records."""
_TRIES: Final = 5
_CLOCK_SKEW_S: Final = 3600
"""Redis ends the records by its own clock: so long before that end they may be gone by ours."""


@dataclass(slots=True)
class _Reading:
    """A sheet's sums, and what its records came to at that moment."""

    sums: Sums
    counted: dict[tuple[str, str], UsageTotals]
    records: int = 0
    last: str | None = None
    """The id of the last record."""
    was_still: bool = True
    """Nothing was settled meanwhile."""


class LedgerVerifier:
    """Compares sums and records."""

    def __init__(self, ledger: Ledger, retention_days: int, clock: Callable[[], float]) -> None:
        """`retention_days` applies to days without a stored expiry of their records."""
        self._ledger = ledger
        self._keep_days = retention_days
        self._clock = clock

    async def verify(
        self, selection: UsageFilter, after: TenantDay | None = None
    ) -> tuple[Reconciliation, TenantDay | None]:
        """Compare the sheets behind `after`, by tenant and day, as many as one request may.

        Returns: what was found, and the last sheet if more may follow.
        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        """
        found = Reconciliation()
        spent = 0
        for tenant in await self._ledger.tenants(selection):
            if after is not None and tenant < after.tenant:
                continue
            spent += _SHEET_COST
            ends = await self._ledger.records_end(tenant)
            for sheet in await self._sheets(tenant, selection, ends):
                if after is not None and tenant == after.tenant and sheet.day <= after.day:
                    continue
                await self._compare(sheet, ends.get(sheet.day, self._usual_end_s(sheet.day)), found)
                spent += _SHEET_COST
                if spent + found.records >= _RECORDS_A_CALL:
                    return found, sheet
            if spent + found.records >= _RECORDS_A_CALL:
                return found, TenantDay(selection.last, tenant)
        return found, None

    async def _sheets(self, tenant: str, selection: UsageFilter, ends: Iterable[date]) -> list[TenantDay]:
        """Those that have sums and those that have or had records, as each may have lost the other."""
        days = await self._ledger.days_of([tenant], selection)
        possible = [TenantDay(day, tenant) for day in self._days_kept(selection)]
        have_records = await self._ledger.have_records(possible)
        recorded = {sheet for sheet, is_there in zip(possible, have_records, strict=True) if is_there}
        noted = {TenantDay(day, tenant) for day in ends if selection.first <= day <= selection.last}
        return sorted(recorded | noted | {TenantDay(day, tenant) for day in days[tenant]})

    def _days_kept(self, selection: UsageFilter) -> Iterator[date]:
        """The selected days whose records are kept, and one more on either side for clocks that differ."""
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        first = max(selection.first, today - timedelta(days=self._keep_days + 1))
        last = min(selection.last, today + timedelta(days=1))
        return (first + timedelta(days=number) for number in range((last - first).days + 1))

    async def _compare(self, sheet: TenantDay, records_end_s: float, found: Reconciliation) -> None:
        before: list[Discrepancy] | None = None
        for _ in range(_TRIES):
            reading = await self._read(sheet)
            wrong = list(differences(sheet, reading.sums, reading.counted))
            if not wrong or (reading.was_still and wrong == before):
                break
            before = wrong if reading.was_still else None
        else:
            found.busy_days += 1
            return
        if wrong and await self._has_expired(sheet, records_end_s):
            found.expired_days += 1
            return
        found.days += 1
        found.records += reading.records
        found.differences += wrong

    async def _read(self, sheet: TenantDay) -> _Reading:
        """Whoever is settled while the records are read stands behind them: it is read too, until nothing moves."""
        [sums] = await self._ledger.sums([sheet])
        reading = _Reading(sums, {})
        for _ in range(_TRIES):
            async for entries in self._ledger.stream(sheet, reading.last):
                for _, fields in entries:
                    group = fields.get("key_id", ""), fields.get("model", "")
                    reading.counted.setdefault(group, UsageTotals()).add(read_amounts(fields))
                reading.last = entries[-1][0]
                reading.records += len(entries)
            [sums] = await self._ledger.sums([sheet])
            if sums == reading.sums:
                break
            reading.sums, reading.was_still = sums, False
        return reading

    async def _has_expired(self, sheet: TenantDay, records_end_s: float) -> bool:
        """Whether its records are gone because their time was over."""
        is_over = self._clock() >= records_end_s - _CLOCK_SKEW_S
        return is_over and not (await self._ledger.have_records([sheet]))[0]

    def _usual_end_s(self, day: date) -> float:
        return datetime.combine(day, datetime.min.time(), UTC).timestamp() + (1 + self._keep_days) * 86_400
