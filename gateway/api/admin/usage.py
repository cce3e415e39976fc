"""`/admin/v1/usage`: usage reports, records, and the comparison of both."""

from collections.abc import Callable
from datetime import UTC, date, datetime

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.pagination import (
    RecordsCursor,
    ReportCursor,
    VerifyCursor,
    parse_by,
    parse_cursor,
    parse_selection,
    render_cursor,
)
from gateway.api.admin.schemas import QueryFields
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor
from gateway.domain.billing import usd
from gateway.domain.usage import Discrepancy, LedgerEntry, TenantDay, UsageFilter, UsageReport, UsageTotals
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier

_ROWS_MAX = 1000
_LAST_MS = 253_402_300_799_999
"""End of the year 9999, the last that ISO 8601 dates of four digits can express."""


class UsageSection:
    """Routes of the ledger: reports, records and verification."""

    def __init__(self, ledger: Ledger, verifier: LedgerVerifier, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._verifier = verifier
        self._clock = clock

    def handlers(self) -> Handlers:
        return {
            "/usage": {"GET": self.report},
            "/usage/records": {"GET": self.list_records},
            "/usage/verify": {"GET": self.verify},
        }

    async def report(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        cursor = parse_cursor(query, ReportCursor)
        selection = parse_selection(query, cursor, self._today())
        by = parse_by(query, cursor)
        limit = query.integer("limit", 1, _ROWS_MAX, _ROWS_MAX)
        query.reject_unknown()
        report = UsageReport(by, limit, cursor.after, UsageTotals(*cursor.total)) if cursor else UsageReport(by, limit)
        await self._ledger.fill(report, selection)
        rows = report.rows()
        next_cursor = ReportCursor.following(selection, by, rows[-1][0], report.total) if report.has_more else None
        data = [dict(zip((column.value for column in by), group, strict=True)) | _amounts(sums) for group, sums in rows]
        body = _head(selection) | {"by": [group.value for group in by], "data": data, "total": _amounts(report.total)}
        return json_response(body | {"next_cursor": render_cursor(next_cursor)})

    async def list_records(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        cursor = parse_cursor(query, RecordsCursor)
        selection = parse_selection(query, cursor, self._today())
        limit = query.integer("limit", 1, _ROWS_MAX, _ROWS_MAX)
        query.reject_unknown()
        total = cursor.total if cursor else await self._ledger.count(selection)
        page = await self._ledger.records(selection, cursor.place if cursor else None, limit)
        next_cursor = RecordsCursor.following(selection, page.end, total) if page.end else None
        body = _head(selection) | {"data": [_record(record) for record in page.records], "total": total}
        return json_response(body | {"next_cursor": render_cursor(next_cursor)})

    async def verify(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        cursor = parse_cursor(query, VerifyCursor)
        selection = parse_selection(query, cursor, self._today())
        query.reject_unknown()
        after = TenantDay(cursor.day, cursor.holder) if cursor else None
        progress, last = await self._verifier.verify(selection, after)
        counts = {
            "days": progress.days,
            "records": progress.records,
            "expired_days": progress.expired_days,
            "busy_days": progress.busy_days,
            "differences": [_difference(difference) for difference in progress.differences],
        }
        next_cursor = VerifyCursor.following(selection, last) if last else None
        return json_response(_head(selection) | counts | {"next_cursor": render_cursor(next_cursor)})

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock(), UTC).date()


def _head(selection: UsageFilter) -> dict[str, object]:
    """Renders the days of the response, which may be defaults."""
    return {"from": selection.first, "to": selection.last}


def _amounts(amounts: UsageTotals) -> dict[str, object]:
    return {
        "requests": amounts.requests,
        "asked": amounts.asked,
        "images": amounts.delivered,
        "withheld": amounts.withheld,
        "lost": amounts.lost,
        "unconfirmed": amounts.unconfirmed,
        "usd": usd(amounts.usd_micros),
    }


def _record(record: LedgerEntry) -> dict[str, object]:
    amounts = record.amounts
    return {
        "id": record.reservation,
        "time": _moment(record.admitted_ms),
        "request_id": record.request_id,
        "tenant": record.tenant,
        "key_id": record.key_id,
        "model": record.model,
        "upstream": ",".join(dict.fromkeys(upstream for upstream, _ in record.calls)),
        "account": ",".join(dict.fromkeys(account for _, account in record.calls)),
        "asked": amounts.asked,
        "delivered": amounts.delivered,
        "withheld": amounts.withheld,
        "lost": amounts.lost,
        "unconfirmed": amounts.unconfirmed,
        "usd": usd(amounts.usd_micros),
        "price_per_image_usd": usd(record.price_usd_micros),
        "outcome": record.outcome,
        "calls": _calls(record),
        "queue_ms": record.durations.queue_ms,
        "upstream_ms": record.durations.upstream_ms,
        "total_ms": record.durations.total_ms,
    }


def _calls(record: LedgerEntry) -> list[dict[str, object]]:
    return [
        {
            "upstream": upstream,
            "account": account,
            "delivered": share.delivered,
            "withheld": share.withheld,
            "lost": share.lost,
            "unconfirmed": share.unconfirmed,
        }
        for (upstream, account), share in record.calls.items()
    ]


def _moment(unix_ms: int) -> str:
    """Renders ISO 8601 in UTC, with milliseconds."""
    seconds, ms = divmod(min(max(unix_ms, 0), _LAST_MS), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z"


def _difference(difference: Discrepancy) -> dict[str, object]:
    return {
        "tenant": difference.sheet.tenant,
        "day": difference.sheet.day,
        "key": difference.key_id,
        "model": difference.model,
        "measure": difference.measure,
        "sums": difference.in_sums,
        "records": difference.in_records,
    }
