"""Filters, groups and cursors of the usage routes.

Cursors are opaque and encode the filter of the first page, so that paging is stable across midnight.
"""

import base64
import re
from datetime import date
from typing import Annotated, Final, Self, TypeVar

import msgspec
from msgspec import Meta

from gateway.api.admin.schemas import QueryFields
from gateway.api.fields import refused_value, wrong_value
from gateway.domain.usage import MEASURES, Group, GroupBy, TenantDay, UsageFilter, UsageTotals
from gateway.metering.ledger import READINGS_MAX, Place, Reading
from gateway.providers.replies import JSON_DECODE_ERRORS

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_EntryId = Annotated[str, Meta(pattern=r"^[0-9]{1,19}-[0-9]{1,19}\Z")]
"""Below 2**64, the limit of Redis."""
_Total = Annotated[tuple[int, ...], Meta(min_length=len(MEASURES), max_length=len(MEASURES))]
_PARAMETERS: Final = (("tenant", "tenant"), ("from", "first"), ("to", "last"))


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The filter that the next page continues."""

    first: date
    last: date
    tenant: str | None


_Cursor = TypeVar("_Cursor", bound=Cursor)


class ReportCursor(Cursor, frozen=True, tag="report"):
    """Continues a report after a row, with the total from its first page."""

    by: str
    after: Group
    total: _Total

    @classmethod
    def following(cls, selection: UsageFilter, by: tuple[GroupBy, ...], group: Group, total: UsageTotals) -> Self:
        names, counts = ",".join(one.value for one in by), tuple(total.of(measure) for measure in MEASURES)
        return cls(selection.first, selection.last, selection.tenant, names, group, counts)


class RecordsCursor(Cursor, frozen=True, tag="records"):
    """Continues records after one of them, with the count from the first page."""

    day: date
    holder: str
    """The tenant of the record."""
    id: _EntryId
    total: int
    readings: Annotated[tuple[tuple[_EntryId, _EntryId], ...], Meta(max_length=READINGS_MAX)] = ()

    @classmethod
    def following(cls, selection: UsageFilter, place: Place, total: int) -> Self:
        sheet, readings = place.tenant_day, tuple((reading.end, reading.newest) for reading in place.readings)
        return cls(
            selection.first, selection.last, selection.tenant, sheet.day, sheet.tenant, place.id, total, readings
        )

    @property
    def place(self) -> Place:
        return Place(TenantDay(self.day, self.holder), self.id, tuple(Reading(*ids) for ids in self.readings))


class VerifyCursor(Cursor, frozen=True, tag="verify"):
    """Continues a verification after one tenant's day."""

    day: date
    holder: str

    @classmethod
    def following(cls, selection: UsageFilter, sheet: TenantDay) -> Self:
        return cls(selection.first, selection.last, selection.tenant, sheet.day, sheet.tenant)


def parse_cursor(query: QueryFields, kind: type[_Cursor]) -> _Cursor | None:
    """Raises: GatewayError INVALID_VALUE for a cursor that no response of this kind contained."""
    text = query.text("cursor")
    if text is None:
        return None
    try:
        padded = text + "=" * (-len(text) % 4)
        return msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=kind)
    except (*JSON_DECODE_ERRORS, ValueError):
        raise refused_value("cursor", "expected the 'next_cursor' of an earlier response.") from None


def render_cursor(cursor: Cursor | None) -> str | None:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=") if cursor else None


def parse_selection(query: QueryFields, cursor: Cursor | None, today: date) -> UsageFilter:
    """Parses the filter. The default is this month up to today, or the month of 'to' up to that day.

    Raises: GatewayError INVALID_VALUE.
    """
    tenant, first, last = query.text("tenant"), _day(query, "from"), _day(query, "to")
    if cursor is not None:
        for (name, field), value in zip(_PARAMETERS, (tenant, first, last), strict=True):
            _check_same(name, value, getattr(cursor, field))
        return UsageFilter(cursor.first, cursor.last, cursor.tenant)
    last = last or today
    first = first or last.replace(day=1)
    if first > last:
        raise refused_value("from", f"it is after 'to' ({last}).")
    return UsageFilter(first, last, tenant)


def parse_by(query: QueryFields, cursor: ReportCursor | None) -> tuple[GroupBy, ...]:
    """Parses the grouping columns, in order. Raises: GatewayError INVALID_VALUE."""
    text = query.text("by")
    if cursor is None:
        return _by(text or GroupBy.DAY.value)
    by = _by(cursor.by)
    _check_same("by", _by(text) if text else None, by)
    if len(cursor.after) != len(by):
        raise refused_value("cursor", "expected the 'next_cursor' of an earlier response.")
    return by


def _by(text: str) -> tuple[GroupBy, ...]:
    known = {group.value: group for group in GroupBy}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise wrong_value("by", name, list(known))
    return tuple(dict.fromkeys(known[name] for name in names))


def _day(query: QueryFields, name: str) -> date | None:
    text = query.text(name)
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise refused_value(name, "expected a day, as 2026-01-31.")


def _check_same(name: str, value: object, expected: object) -> None:
    if value is not None and value != expected:
        raise refused_value("cursor", f"it belongs to a request with another '{name}'.")
