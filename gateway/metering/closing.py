"""Month close: what was billed for a month stays as it is.

A closed month is marked in each tenant's own hash, with its cost centre, owner and tags. From then on settle.lua adds
what is settled late to the present day, as a correction. The process that serves the request closes; a close that was
cut off is repeated. Invariant: a close record exists only once every tenant of the month is marked.
"""

import asyncio
import hashlib
from calendar import monthrange
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from gateway.domain.audit import Actor, AuditEvent
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import GroupBy, Reconciliation, UsageFilter, UsageReport
from gateway.metering.exports import Exports, amounts_document
from gateway.metering.ledger_keys import day_number, read_integer, write_holder
from gateway.metering.verification import LedgerVerifier
from gateway.redis import Client, execute
from gateway.tenants.transactions import ConflictError, FieldUpdate, HashKind, TenantTransactions

CLOSED_BY: Final = (GroupBy.DAY, GroupBy.TENANT, GroupBy.MODEL, GroupBy.KEY)
"""Groups of the CSV export whose digest a close record has."""
_SKEW: Final = timedelta(hours=1)
"""Clocks differ by less: no request is admitted into a month that ended this long ago."""
_DEADLINE_S: Final = 1_800.0
_OPEN_PER_CALL: Final = 1_000
_NAMED: Final = 5
"""Limit on tenants that a refusal names."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The proof of a closed month."""

    month: str  # YYYY-MM
    closed_at: int  # Unix seconds; of a dry run 0
    closed_by: str
    tenants: int
    records: int
    total: dict[str, object]  # as AMOUNTS
    focus_sha256: str
    csv_sha256: str


class MonthCloser:
    """Closes months."""

    def __init__(
        self,
        redis: Client,
        exports: Exports,
        verifier: LedgerVerifier,
        transactions: TenantTransactions,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._exports, self._ledger = exports, exports.ledger
        self._verifier = verifier
        self._transactions = transactions
        self._clock = clock
        self._calendar = exports.calendar
        self._name = f"{redis.prefix}:closings"

    async def closings(self) -> list[Closing]:
        """Returns all close records by month: 12 a year. Raises: GatewayError REDIS_UNAVAILABLE."""
        found = await execute(self._redis, self._redis.hgetall(self._name), dict[str, str])
        return [msgspec.json.decode(found[month], type=Closing) for month in sorted(found)]

    async def close(self, first: date, actor: Actor, *, is_dry_run: bool) -> Closing:
        """Verifies and closes the month that begins at `first`; a dry run changes nothing.

        Raises: GatewayError CONFLICT with the reason if it cannot be closed, REDIS_UNAVAILABLE.
        """
        month, usage_filter = f"{first:%Y-%m}", UsageFilter(first, month_end(first))
        await self._refuse_unfit(month, usage_filter)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                sheets = await self._ledger.tenant_days(usage_filter)
                tenants = sorted({sheet.tenant for sheet in sheets})
                await self._refuse_open(month, usage_filter)
                records = await self._verify(month, usage_filter)
                if not is_dry_run:
                    await self._mark(tenants, first, actor)
                closed_at = 0 if is_dry_run else int(self._clock())
                found = await self._describe(usage_filter)
                closing = Closing(month, closed_at, actor.name, len(tenants), records, *found)
        except TimeoutError:
            raise GatewayError(
                ErrorCode.CONFLICT, f"{month} was not closed: it took more than {_DEADLINE_S:.0f} s. Try again."
            ) from None
        if not is_dry_run:
            text = msgspec.json.encode(closing).decode()
            if not await execute(self._redis, self._redis.hsetnx(self._name, month, text), int):
                await self._refuse_unfit(month, usage_filter)
        return closing

    async def _refuse_unfit(self, month: str, usage_filter: UsageFilter) -> None:
        if usage_filter.last == date.max:  # a clock cannot state its end
            raise GatewayError(ErrorCode.CONFLICT, f"{month} is not over.")
        ends = self._calendar.start(usage_filter.last + timedelta(days=1)) + _SKEW
        if datetime.fromtimestamp(self._clock(), UTC) < ends:
            raise GatewayError(
                ErrorCode.CONFLICT, f"{month} is not over: it can be closed from {ends:%Y-%m-%dT%H:%M:%SZ}."
            )
        if text := await execute(self._redis, self._redis.hget(self._name, month), object):
            done = msgspec.json.decode(str(text), type=Closing)
            when = f"{datetime.fromtimestamp(done.closed_at, UTC):%Y-%m-%d} by '{done.closed_by}'"
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"{month} is closed since {when}. Later differences are corrections in the next period; "
                "`imagegate usage close --list` shows its totals.",
            )

    async def _refuse_open(self, month: str, usage_filter: UsageFilter) -> None:
        names = await self._ledger.tenants(usage_filter)
        found = {name: count for name in names if (count := await self._open(name, usage_filter))}
        if found:
            shown = ", ".join(f"{name} {count}" for name, count in [*found.items()][:_NAMED])
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"{month} has {sum(found.values())} requests that are not settled, by tenant: {shown}. They settle "
                "when they end, or [requests] reservation_lease_s after their process died. Try again then.",
            )

    async def _open(self, tenant: str, usage_filter: UsageFilter) -> int:
        """Returns the number of a tenant's unsettled reservations that were admitted in these days.

        Redis: two round trips per 1,000 unsettled reservations.
        """
        first, last = day_number(usage_filter.first), day_number(usage_filter.last)
        base = f"{self._redis.prefix}:{{{tenant}}}:"
        counted = start = 0
        while True:
            call = self._redis.zrange(f"{base}open", start, start + _OPEN_PER_CALL - 1)
            ids = await execute(self._redis, call, list[str])
            pipeline = self._redis.pipeline(transaction=False)
            for name in ids:
                pipeline.hget(f"{base}reservation:{name}", "day")
            days = await execute(self._redis, pipeline.execute(), list[str | None]) if ids else []
            counted += sum(first <= read_integer(day) <= last for day in days)
            start += len(ids)
            if len(ids) < _OPEN_PER_CALL:
                return counted

    async def _verify(self, month: str, usage_filter: UsageFilter) -> int:
        """Returns the number of records. Raises: GatewayError CONFLICT."""
        records, after = 0, None
        while True:
            found, after = await self._verifier.verify(usage_filter, after)
            records += found.records
            if problem := _problem(found):
                raise GatewayError(
                    ErrorCode.CONFLICT,
                    f"{month} was not closed: {problem}. Run `imagegate usage verify --month {month}`.",
                )
            if after is None:
                return records

    async def _mark(self, tenants: list[str], first: date, actor: Actor) -> None:
        """Marks the month as closed, with an audit entry for each tenant, unless an earlier attempt has."""
        month = f"{first:%Y%m}"
        holders = await self._ledger.holders(tenants)
        for name in tenants:
            event = AuditEvent(actor, "usage.close", name, after={"month": f"{first:%Y-%m}"})
            update = FieldUpdate(HashKind.CLOSED, month, None, write_holder(holders[name].present))
            if month not in holders[name].closed:
                try:
                    await self._transactions.make(event, [update])
                except ConflictError:
                    continue  # another process marks it too

    async def _describe(self, usage_filter: UsageFilter) -> tuple[dict[str, object], str, str]:
        report = UsageReport((GroupBy.MONTH,), 1)
        await self._ledger.fill(report, usage_filter)
        digests = [
            await _sha256(lines)
            for lines in (self._exports.focus(usage_filter), self._exports.csv(usage_filter, CLOSED_BY))
        ]
        return amounts_document(report.total), digests[0], digests[1]


def month_end(first: date) -> date:
    """Returns the last day of the month that begins at `first`."""
    return first.replace(day=monthrange(first.year, first.month)[1])


def _problem(found: Reconciliation) -> str:
    if found.differences:
        one = found.differences[0]
        told = f"{one.measure} of tenant '{one.sheet.tenant}' on {one.sheet.day}"
        return f"totals and records differ in {len(found.differences)} places, first in {told}"
    if found.busy_days:
        return "requests of it were settled during the comparison"
    return "records of some days have expired, so they prove nothing" if found.expired_days else ""


async def _sha256(lines: AsyncIterator[str]) -> str:
    digest = hashlib.sha256()
    async for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()
