"""Ledger verification: sums recomputed from the records.

Settlements continue meanwhile. Invariant: a reported discrepancy was found twice in a row, each time with the same
sums before and after the records were read.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from gateway.domain.attribution import BATCH
from gateway.domain.usage import (
    PURCHASES,
    Discrepancy,
    Reconciliation,
    Sums,
    TenantDay,
    UsageFilter,
    UsageTotals,
    differences,
)
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_amounts, read_group, read_integer, read_purchase, read_splits

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
    split_sums: Sums
    counted: dict[tuple[str, str, str], UsageTotals] = field(default_factory=dict)
    split_counted: dict[tuple[str, str, str], UsageTotals] = field(default_factory=dict)
    records: int = 0
    last: str | None = None
    """ID of the last record."""
    was_still: bool = True
    """Nothing was settled meanwhile."""
    bought_ms: dict[tuple[str, str], int] = field(default_factory=dict)
    """Batch lines and idempotency keys -> admission of their last purchase, in Unix milliseconds."""
    repeated: list[Discrepancy] = field(default_factory=list)
    """Purchases for a line or a key that had bought already."""

    def add(self, tenant_day: TenantDay, fields: Mapping[str, str], key_retention_ms: int) -> None:
        """Adds a record. A key may buy again once it is forgotten, a line never."""
        key_id, model, batch_id = group = read_group(fields)
        amounts = read_amounts(fields)
        self.counted.setdefault(group, UsageTotals()).add(amounts)
        for split, share in read_splits(fields):
            self.split_counted.setdefault((key_id, model, split), UsageTotals()).add(share)
        if purchase := read_purchase(fields, amounts):
            before_ms, now_ms = self.bought_ms.get(purchase), read_integer(fields.get("admitted_ms"))
            self.bought_ms[purchase] = now_ms
            if before_ms is not None and (purchase[0] or abs(now_ms - before_ms) < key_retention_ms):
                self.repeated.append(Discrepancy(tenant_day, key_id, model, PURCHASES, 1, 2, batch_id))


class LedgerVerifier:
    """Compares sums with records, and searches these for a line or an idempotency key that bought twice in a day."""

    def __init__(
        self, ledger: Ledger, retention_days: int, clock: Callable[[], float], key_retention_s: float = 86_400.0
    ) -> None:
        """`retention_days` applies to days without a stored expiry of their records.

        Idempotency keys are remembered for `key_retention_s`.
        """
        self._ledger = ledger
        self._keep_days = retention_days
        self._clock = clock
        self._key_retention_ms = round(key_retention_s * 1000)

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
            wrong = [*differences(tenant_day, reading.sums, reading.counted), *reading.repeated]
            split = differences(tenant_day, reading.split_sums, reading.split_counted)
            wrong += [replace(one, batch_id="", split=one.batch_id) for one in split]
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
        reading = _Reading(*await self._sums(tenant_day))
        for _ in range(_TRIES):
            async for entries in self._ledger.stream(tenant_day, reading.last):
                for _, fields in entries:
                    reading.add(tenant_day, fields, self._key_retention_ms)
                reading.last = entries[-1][0]
                reading.records += len(entries)
            sums, split_sums = await self._sums(tenant_day)
            if (sums, split_sums) == (reading.sums, reading.split_sums):
                break
            reading.sums, reading.split_sums, reading.was_still = sums, split_sums, False
        return reading

    async def _sums(self, tenant_day: TenantDay) -> tuple[Sums, Sums]:
        [sums] = await self._ledger.sums([tenant_day], BATCH)
        return sums, await self._ledger.split_sums(tenant_day)
