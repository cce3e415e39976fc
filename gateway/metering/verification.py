"""Ledger verification: sums recomputed from the records.

Settlements continue meanwhile. Invariant: a reported discrepancy was found twice in a row, each time with the same
sums before and after the records were read.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from gateway.domain.usage import Discrepancy, Reconciliation, Sums, TenantDay, UsageFilter, UsageTotals, differences
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_amounts, read_group

_RECORDS_PER_CALL: Final = 5_000
_TENANT_DAY_COST: Final = 20
"""Cost of a tenant day in records: even an empty one takes some round trips."""
_TRIES: Final = 5
_CLOCK_SKEW_S: Final = 3600
"""Maximum clock skew. Redis expires records by its own clock, so they may be gone this long before their end."""


@dataclass(slots=True)
class _Reading:
    """A tenant day's sums, and the totals of its records at that time."""

    sums: Sums
    counted: dict[tuple[str, str, str], UsageTotals]
    records: int = 0
    last: str | None = None
    """ID of the last record."""
    was_still: bool = True
    """Nothing was settled meanwhile."""


class LedgerVerifier:
    """Compares sums with records."""

    def __init__(self, ledger: Ledger, retention_days: int, clock: Callable[[], float]) -> None:
        """`retention_days` applies to days without a stored expiry of their records."""
        self._ledger = ledger
        self._keep_days = retention_days
        self._clock = clock

    async def verify(
        self, usage_filter: UsageFilter, after: TenantDay | None = None
    ) -> tuple[Reconciliation, TenantDay | None]:
        """Compares tenant days after `after`, by tenant and day, within the cost limit of one request.

        Returns: the result, and the last tenant day if more may follow.
        Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE.
        """
        found = Reconciliation()
        spent = 0
        for tenant in await self._ledger.tenants(usage_filter):
            if after is not None and tenant < after.tenant:
                continue
            spent += _TENANT_DAY_COST
            ends = await self._ledger.records_end(tenant)
            done = after.day if after is not None and tenant == after.tenant else date.min
            for day in await self._days(tenant, usage_filter, ends):
                if day > done:
                    await self._compare(TenantDay(day, tenant), ends.get(day), found)
                    spent += _TENANT_DAY_COST
                    if spent + found.records >= _RECORDS_PER_CALL:
                        return found, TenantDay(day, tenant)
            if spent + found.records >= _RECORDS_PER_CALL:
                return found, TenantDay(usage_filter.last, tenant)
        return found, None

    async def _days(self, tenant: str, usage_filter: UsageFilter, ends: Iterable[date]) -> list[date]:
        """Returns days that have sums, and those that have or had records, as each may have lost the other."""
        summed = (await self._ledger.days_of([tenant], usage_filter))[tenant]
        # The days within retention, and one more on either side for clock skew.
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        first = max(usage_filter.first, today - timedelta(days=self._keep_days + 1))
        last = min(usage_filter.last, today + timedelta(days=1))
        possible = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        have_records = await self._ledger.have_records([TenantDay(day, tenant) for day in possible])
        recorded = itertools.compress(possible, have_records)
        return sorted({*summed, *recorded, *(day for day in ends if usage_filter.first <= day <= usage_filter.last)})

    async def _compare(self, tenant_day: TenantDay, records_end_s: int | None, found: Reconciliation) -> None:
        before: list[Discrepancy] | None = None
        for _ in range(_TRIES):
            reading = await self._read(tenant_day)
            wrong = list(differences(tenant_day, reading.sums, reading.counted))
            if not wrong or (reading.was_still and wrong == before):
                break
            before = wrong if reading.was_still else None
        else:
            found.busy_days += 1
            return
        if records_end_s is None:
            midnight_s = datetime.combine(tenant_day.day, time.min, UTC).timestamp()
            records_end_s = round(midnight_s) + (1 + self._keep_days) * 86_400
        is_over = self._clock() >= records_end_s - _CLOCK_SKEW_S
        if wrong and is_over and not (await self._ledger.have_records([tenant_day]))[0]:
            found.expired_days += 1
            return
        found.days += 1
        found.records += reading.records
        found.differences += wrong

    async def _read(self, tenant_day: TenantDay) -> _Reading:
        """Reads until the sums are stable: settlements made meanwhile append records, which are read too."""
        [sums] = await self._ledger.sums([tenant_day], by_batch=True)
        reading = _Reading(sums, {})
        for _ in range(_TRIES):
            async for entries in self._ledger.stream(tenant_day, reading.last):
                for _, fields in entries:
                    reading.counted.setdefault(read_group(fields), UsageTotals()).add(read_amounts(fields))
                reading.last = entries[-1][0]
                reading.records += len(entries)
            [sums] = await self._ledger.sums([tenant_day], by_batch=True)
            if sums == reading.sums:
                break
            reading.sums, reading.was_still = sums, False
        return reading
