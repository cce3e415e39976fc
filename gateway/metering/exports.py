"""Exports of usage as lines of text, in order, for any number of tenants, days and records.

Invariant: the rows of a FOCUS export add up to the totals that `Ledger.fill` reports. A tenant's day whose records do
not is refused. Memory: one page of a report, or the groups of one tenant's day.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.attribution import EVERY_REQUEST, RequestFilter
from gateway.domain.billing import usd
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.csv_lines import csv_line
from gateway.domain.focus import FOCUS_COLUMNS, focus_group, focus_rows
from gateway.domain.usage import Group, GroupBy, Holders, LedgerEntry, UsageFilter, UsageReport, UsageTotals
from gateway.metering.ledger import Ledger
from gateway.metering.record_places import Place
from gateway.metering.record_sums import fill, sum_records
from gateway.tenants.names import TenantNames

AMOUNTS: Final = ("requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd")
"""Columns of amounts, in order."""
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
        self, usage_filter: UsageFilter, by: tuple[GroupBy, ...], wanted: RequestFilter = EVERY_REQUEST
    ) -> AsyncIterator[str]:
        """Yields a report as CSV. Raises: GatewayError as `record_sums.fill`."""
        yield csv_line([*(group.value for group in by), *AMOUNTS])
        after: Group | None = None
        at, names = by.index(GroupBy.TENANT) if GroupBy.TENANT in by else None, await self.current_names()
        while True:
            report = UsageReport(by, self.rows_per_page, after, UsageTotals(), wanted)
            await fill(self.ledger, report, usage_filter)
            rows = report.rows()
            for group, amounts in rows:
                shown = [names.get(value, value) if column == at else value for column, value in enumerate(group)]
                yield csv_line([*shown, *amounts_document(amounts).values()])
            if not report.has_more:
                return
            after = rows[-1][0]

    async def focus(self, usage_filter: UsageFilter, wanted: RequestFilter = EVERY_REQUEST) -> AsyncIterator[str]:
        """Yields FOCUS 1.2 as CSV. Raises: GatewayError CONFLICT, NOT_FOUND, REDIS_UNAVAILABLE."""
        yield csv_line(FOCUS_COLUMNS)
        holders: dict[str, Holders] = {}
        names = await self.current_names()
        for sheet in await self.ledger.tenant_days(usage_filter):
            if sheet.tenant not in holders:
                holders |= await self.ledger.holders([sheet.tenant])
            read = await sum_records(self.ledger, sheet, lambda entry: (entry.is_selected(wanted), focus_group(entry)))
            groups = {group: amounts for (is_selected, group), amounts in read.items() if is_selected}
            holder, name = holders[sheet.tenant].of(sheet.day), names.get(sheet.tenant, sheet.tenant)
            for row in focus_rows(sheet, groups, holder, self.account, self.calendar, name):
                yield csv_line(row)

    async def records(
        self, usage_filter: UsageFilter, wanted: RequestFilter = EVERY_REQUEST
    ) -> AsyncIterator[LedgerEntry]:
        """Yields every selected record, oldest day first. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        place: Place | None = None
        names = await self.current_names()
        while True:
            page = await self.ledger.records(usage_filter, place, _RECORDS_PER_PAGE)
            for entry in filter(lambda one: one.is_selected(wanted), page.records):
                yield replace(entry, tenant=names.get(entry.tenant, entry.tenant))
            if page.end is None:
                return
            place = page.end

    async def current_names(self) -> Mapping[str, str]:
        """Returns the names of renamed tenants by ID. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await self.names.all_current() if self.names else {}
