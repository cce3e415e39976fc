"""`/admin/v1/usage`: usage reports, and their comparison with the records.

Cursors are opaque and encode the filter of the first page, so that paging is stable across midnight.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.periods import check_days, days_before, parse_period
from gateway.api.admin.schemas import QueryFields
from gateway.api.admin.usage_columns import check_hours, parse_by, parse_tag
from gateway.api.bodies import json_response
from gateway.api.refusals import refused_value, wrong_value
from gateway.domain.attribution import RequestFilter
from gateway.domain.audit import Actor
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.usage import (
    MEASURES,
    Group,
    GroupBy,
    TenantDay,
    UsageFilter,
    UsageReport,
    UsageTotals,
)
from gateway.metering.exports import amounts_document
from gateway.metering.ledger import Ledger
from gateway.metering.record_sums import fill
from gateway.metering.verification import LedgerVerifier
from gateway.providers.replies import JSON_DECODE_ERRORS
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames

_ROWS_MAX: Final = 1000
_Total = Annotated[tuple[int, ...], Meta(min_length=len(MEASURES), max_length=len(MEASURES))]


class PageCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The filter that the next page continues."""

    first: date
    last: date
    tenant: str | None


class _ReportCursor(PageCursor, frozen=True, tag="report"):
    """Continues a report after a row, with the total from its first page."""

    by: str
    after: Group
    total: _Total
    tag: str | None = None
    model: str | None = None
    key: str | None = None

    @property
    def wanted(self) -> dict[str, str | None]:
        return {"tag": self.tag, "model": self.model, "key": self.key}


class _VerifyCursor(PageCursor, frozen=True, tag="verify"):
    """Continues a verification after one tenant's day."""

    day: date
    holder: str
    """The tenant."""


_C = TypeVar("_C", bound=PageCursor)


@dataclass(frozen=True, slots=True)
class ReportBounds:
    """The bounds of a report for one tenant."""

    tenant: str
    groups: frozenset[str]
    """Values of GroupBy that it may be grouped by."""
    days_max: int

    def check(self, by: tuple[GroupBy, ...], selection: UsageFilter) -> None:
        """Raises: GatewayError INVALID_VALUE."""
        for group in by:
            if group.value not in self.groups:
                raise wrong_value("by", group.value, [known.value for known in GroupBy if known.value in self.groups])
        check_days(selection.first, selection.last, self.days_max)


@dataclass(frozen=True, slots=True, repr=False)
class UsageSection:
    """Routes of the ledger: reports and verification."""

    ledger: Ledger
    verifier: LedgerVerifier
    clock: Callable[[], float]
    names: TenantNames
    keys: KeyList
    calendar: Calendar = UTC_CALENDAR
    tag_keys: tuple[str, ...] = ()
    """Of the tags that have sums."""

    def handlers(self) -> Handlers:
        return {
            "/usage": {"GET": self.report},
            "/usage/verify": {"GET": self.verify},
        }

    async def report(self, request: Request, _: Actor) -> Response:
        return (await self.report_of(request))[0]

    async def report_of(self, request: Request, bounds: ReportBounds | None = None) -> tuple[Response, int]:
        """Returns the response, and the number of sums that it took. Raises: GatewayError."""
        query = QueryFields(request)
        cursor, selection = self.parse(query, _ReportCursor, bounds.tenant if bounds else None)
        by = _parse_columns(query, cursor)
        wanted = self.parse_wanted(query, by, cursor.wanted if cursor else None)
        check_hours(by, selection)
        if bounds:
            bounds.check(by, selection)
        limit = query.integer("limit", 1, _ROWS_MAX, _ROWS_MAX)
        if (compare := None if bounds else query.text("compare")) not in {None, "previous"}:
            raise wrong_value("compare", str(compare), ["previous"])
        query.reject_unknown()
        after, total = (cursor.after, UsageTotals(*cursor.total)) if cursor else (None, None)
        report = UsageReport(by, limit, after, total, wanted)
        await fill(self.ledger, report, selection)
        rows, columns = report.rows(), [column.value for column in by]
        data = [dict(zip(columns, group, strict=True)) | amounts_document(sums) for group, sums in rows]
        following = None
        if report.has_more:
            sums, place = tuple(report.total.of(measure) for measure in MEASURES), (",".join(columns), rows[-1][0])
            of, tag = (selection.first, selection.last, selection.tenant), str(wanted.tag) if wanted.tag else None
            following = _ReportCursor(*of, *place, sums, tag, wanted.model, wanted.key)
        data = await self.names.show(await self._with_labels(data))
        body = {"by": columns, "data": data, "total": amounts_document(report.total)}
        if compare:
            body["previous"] = await self._previous(selection, wanted)
        return self.page(selection, body, following), report.groups_read

    async def _with_labels(self, rows: list[dict[str, object]]) -> list[dict[str, object]]:
        """Returns the rows with the present label of each `key`; None if there is no such key any more."""
        if not rows or "key" not in rows[0]:
            return rows
        labels = await self.keys.labels(sorted({str(row["key"]) for row in rows}))
        return [row | {"label": labels.get(str(row["key"]))} for row in rows]

    async def _previous(self, of: UsageFilter, wanted: RequestFilter) -> dict[str, object]:
        """Returns the total of the period before. Costs as much as a first page by day."""
        before, report = days_before(of), UsageReport((GroupBy.DAY,), 1, wanted=wanted)
        await self.ledger.fill(report, before)
        return {"from": before.first, "to": before.last, "total": amounts_document(report.total)}

    async def verify(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        cursor, selection = self.parse(query, _VerifyCursor)
        query.reject_unknown()
        after = TenantDay(cursor.day, cursor.holder) if cursor else None
        progress, last = await self.verifier.verify(selection, after)
        differences: list[dict[str, object]] = [
            {
                "tenant": difference.sheet.tenant,
                "day": difference.sheet.day,
                "key": difference.key_id,
                "model": difference.model,
                "batch": difference.batch_id,
                "split": difference.split,
                "measure": difference.measure,
                "sums": difference.in_sums,
                "records": difference.in_records,
            }
            for difference in progress.differences
        ]
        counts = {name: getattr(progress, name) for name in ("days", "records", "expired_days", "busy_days")}
        following = (
            _VerifyCursor(selection.first, selection.last, selection.tenant, last.day, last.tenant) if last else None
        )
        shown = await self.names.show(differences)
        return self.page(selection, counts | {"differences": shown}, following)

    def page(self, selection: UsageFilter, body: dict[str, object], following: PageCursor | None) -> Response:
        """Renders a page with its days, which may be defaults, and the cursor of the next page."""
        cursor = base64.urlsafe_b64encode(msgspec.json.encode(following)).decode().rstrip("=") if following else None
        days = {"from": selection.first, "to": selection.last, "time_zone": self.calendar.name}
        return json_response(days | body | {"next_cursor": cursor})

    def today(self) -> date:
        return self.calendar.day(self.clock())

    def parse_days(self, query: QueryFields, days: int = 0) -> tuple[date, date]:
        """Parses the period. The default is this month up to today, or the month of 'to' up to that day.

        With `days`, the default is as many days up to that day.

        Raises: GatewayError INVALID_VALUE.
        """
        today = self.today()
        first, last = parse_period(query, today)
        last = last or today
        first = first or (last - timedelta(days=days - 1) if days else last.replace(day=1))
        if first > last:
            raise refused_value("from", f"it is after 'to' ({last}).")
        return first, last

    def parse(
        self, query: QueryFields, kind: type[_C], own_tenant: str | None = None, days: int = 0
    ) -> tuple[_C | None, UsageFilter]:
        """Parses cursor and filter, or the filter of `own_tenant`.

        Raises: GatewayError INVALID_VALUE, also for a cursor that no response of this kind contained.
        """
        text, tenant = query.text("cursor"), own_tenant or query.text("tenant")
        if text is None:
            return None, UsageFilter(*self.parse_days(query, days), tenant)
        try:
            padded = text + "=" * (-len(text) % 4)
            cursor = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=kind)
        except (*JSON_DECODE_ERRORS, ValueError):
            raise refused_value("cursor", "expected the 'next_cursor' of an earlier response.") from None
        first, last = parse_period(query, cursor.last)
        for name, value, own in (
            ("tenant", tenant, cursor.tenant),
            ("from", first, cursor.first),
            ("to", last, cursor.last),
        ):
            if value is not None and value != own:
                raise refused_value("cursor", f"it belongs to a request with another '{name}'.")
        return cursor, UsageFilter(cursor.first, cursor.last, cursor.tenant)

    def parse_wanted(
        self, query: QueryFields, by: tuple[GroupBy, ...], continued: Mapping[str, str | None] | None = None
    ) -> RequestFilter:
        """Parses `tag`, `model` and `key`, or takes those of the page that is continued.

        Raises: GatewayError INVALID_VALUE, MISSING_PARAMETER.
        """
        values = {name: query.text(name) for name in ("tag", "model", "key")}
        of = continued or values
        for name, value in values.items():
            if value not in {None, of[name]}:
                raise refused_value("cursor", f"it belongs to a request with another '{name}'.")
        return RequestFilter(of["model"], of["key"], parse_tag(of["tag"], self.tag_keys, by))


def _parse_columns(query: QueryFields, cursor: _ReportCursor | None) -> tuple[GroupBy, ...]:
    """Parses the grouping columns, or takes those of the cursor. Raises: GatewayError INVALID_VALUE."""
    text = query.text("by")
    if cursor is None:
        return parse_by(text)
    by = parse_by(cursor.by)
    if text and parse_by(text) != by:
        raise refused_value("cursor", "it belongs to a request with another 'by'.")
    if len(cursor.after) != len(by):
        raise refused_value("cursor", "expected the 'next_cursor' of an earlier response.")
    return by
