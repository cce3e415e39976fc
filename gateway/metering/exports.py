"""Exports of usage as lines of text, in order, for any number of tenants, days and records.

Invariant: the rows of a FOCUS export add up to the totals that `Ledger.fill` reports. A tenant's day whose records do
not is refused. Memory: one page of a report, or the groups of one tenant's day.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.attribution import TagFilter
from gateway.domain.billing import usd
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.csv_lines import csv_line
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.focus import FOCUS_COLUMNS, FocusGroup, focus_group, focus_rows, focus_total
from gateway.domain.usage import Group, GroupBy, Holders, LedgerEntry, TenantDay, UsageFilter, UsageReport, UsageTotals
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_record
from gateway.metering.record_places import Place
from gateway.tenants.names import TenantNames

AMOUNTS: Final = ("requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd")
"""Columns of amounts, in order."""
_TRIES: Final = 5
_RECORDS_PER_PAGE: Final = 1_000


def amounts_document(amounts: UsageTotals) -> dict[str, object]:
    """Renders amounts by the names of AMOUNTS; money is an exact decimal in dollars."""
    counts = {name: amounts.of("delivered" if name == "images" else name) for name in AMOUNTS[:-1]}
    return {**counts, "usd": usd(amounts.usd_micros)}


@dataclass(frozen=True, slots=True, repr=False)
class Exports:
    """Exports of one ledger."""

    ledger: Ledger
    account: str
    """The installation, as FOCUS names it."""
    calendar: Calendar = UTC_CALENDAR
    names: TenantNames | None = None
    """Absent if no tenant was renamed."""
    rows_per_page: int = 10_000
    """Rows of a report that are held at once. Each page reads the totals again."""

    async def csv(
        self, usage_filter: UsageFilter, by: tuple[GroupBy, ...], tag: TagFilter | None = None
    ) -> AsyncIterator[str]:
        """Yields a report as CSV. Raises: GatewayError NOT_FOUND for an unknown tenant, REDIS_UNAVAILABLE."""
        yield csv_line([*(group.value for group in by), *AMOUNTS])
        after: Group | None = None
        at, names = by.index(GroupBy.TENANT) if GroupBy.TENANT in by else None, await self.current_names()
        while True:
            report = UsageReport(by, self.rows_per_page, after, UsageTotals(), tag)
            await self.ledger.fill(report, usage_filter)
            rows = report.rows()
            for group, amounts in rows:
                shown = [names.get(value, value) if column == at else value for column, value in enumerate(group)]
                yield csv_line([*shown, *amounts_document(amounts).values()])
            if not report.has_more:
                return
            after = rows[-1][0]

    async def focus(self, usage_filter: UsageFilter) -> AsyncIterator[str]:
        """Yields FOCUS 1.2 as CSV. Raises: GatewayError CONFLICT, NOT_FOUND, REDIS_UNAVAILABLE."""
        yield csv_line(FOCUS_COLUMNS)
        holders: dict[str, Holders] = {}
        names = await self.current_names()
        for sheet in await self.ledger.tenant_days(usage_filter):
            if sheet.tenant not in holders:
                holders |= await self.ledger.holders([sheet.tenant])
            groups = await self.groups(sheet)
            holder, name = holders[sheet.tenant].of(sheet.day), names.get(sheet.tenant, sheet.tenant)
            for row in focus_rows(sheet, groups, holder, self.account, self.calendar, name):
                yield csv_line(row)

    async def records(self, usage_filter: UsageFilter) -> AsyncIterator[LedgerEntry]:
        """Yields every record, oldest day first. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        place: Place | None = None
        names = await self.current_names()
        while True:
            page = await self.ledger.records(usage_filter, place, _RECORDS_PER_PAGE)
            for entry in page.records:
                yield replace(entry, tenant=names.get(entry.tenant, entry.tenant))
            if page.end is None:
                return
            place = page.end

    async def current_names(self) -> Mapping[str, str]:
        """Returns the names of renamed tenants by ID. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await self.names.all_current() if self.names else {}

    async def groups(self, sheet: TenantDay) -> dict[FocusGroup, UsageTotals]:
        """Returns the amounts of a tenant's day, read from its records until they agree with its totals.

        Raises: GatewayError CONFLICT if they do not, REDIS_UNAVAILABLE.
        """
        for _ in range(_TRIES):  # again from the first record, if one moved that was read
            groups: dict[FocusGroup, UsageTotals] = {}
            last: str | None = None
            for _ in range(_TRIES):  # on from the last one, if requests were settled meanwhile
                async for entries in self.ledger.stream(sheet, last):
                    for _, fields in entries:
                        entry = read_record(sheet.tenant, fields)
                        groups.setdefault(focus_group(entry), UsageTotals()).add(entry.amounts)
                    last = entries[-1][0]
                [sums] = await self.ledger.sums([sheet])
                if focus_total(groups.values()) == focus_total(sums.values()):
                    return groups
        have_records = (await self.ledger.have_records([sheet]))[0]
        why = (
            "its records differ from its totals. Run `imagegate usage verify`, or try again while fewer requests end"
            if have_records
            else "its records, which have the prices, are gone. Export CSV, which needs the totals alone"
        )
        raise GatewayError(ErrorCode.CONFLICT, f"No FOCUS export of tenant '{sheet.tenant}' on {sheet.day}: {why}.")
