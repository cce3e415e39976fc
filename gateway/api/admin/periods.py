"""The days that a request selects: `from` and `to`, `month`, or `last`; and where it continues a list of streams."""

import re
from calendar import monthrange
from contextlib import suppress
from datetime import date, timedelta
from typing import Final

from gateway.api.admin.schemas import QueryFields
from gateway.api.refusals import excerpt, refused_value
from gateway.domain.usage import UsageFilter
from gateway.tenants.merged_streams import Cursor

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_EPOCH: Final = date(1970, 1, 1)
_DAY_MS: Final = 86_400_000
_LAST: Final = re.compile(r"([1-9][0-9]{0,3})d", re.ASCII)


def parse_period(query: QueryFields, today: date) -> tuple[date | None, date | None]:
    """Returns the first and the last day, None if a request leaves it open.

    Raises: GatewayError INVALID_VALUE.
    """
    first, last = parse_day(query, "from"), parse_day(query, "to")
    for name, parse in (("month", parse_month), ("last", _parse_last)):
        if (text := query.text(name)) is not None:
            if first or last:
                raise refused_value(name, "it cannot be combined with another period. Use it alone.")
            first, last = parse(text, today)
    return first, last


def check_days(first: date, last: date, days_max: int) -> None:
    """Raises: GatewayError INVALID_VALUE."""
    if (last - first).days >= days_max:
        raise refused_value("from", f"expected at most {days_max} days, up to 'to' ({last}).")


def parse_day(query: QueryFields, name: str) -> date | None:
    """Returns None if absent. Raises: GatewayError INVALID_VALUE."""
    text = query.text(name)
    return None if text is None else _parse_day(name, text, "a day, YYYY-MM-DD, as 2026-01-31")


def _parse_day(name: str, text: str, expected: str, ending: str = "") -> date:
    with suppress(ValueError):
        if _DAY.fullmatch(text + ending):
            return date.fromisoformat(text + ending)
    raise refused_value(name, f"expected {expected}, but got '{excerpt(text)}'.")


def parse_utc_days(query: QueryFields) -> tuple[int, Cursor | None]:
    """Returns the Unix milliseconds at which `from` begins, 0 if it is open, and where `to` ends; days are UTC.

    Raises: GatewayError INVALID_VALUE.
    """
    first, last = parse_day(query, "from"), parse_day(query, "to")
    if first and last and first > last:
        raise refused_value("from", f"it is after 'to' ({last}).")
    end = Cursor(_midnight_ms(last) + _DAY_MS, 0, "") if last else None
    return _midnight_ms(first) if first else 0, end


def _midnight_ms(day: date) -> int:
    return (day - _EPOCH).days * _DAY_MS


def parse_before(query: QueryFields) -> Cursor | None:
    """Raises: GatewayError INVALID_VALUE."""
    text = query.text("before")
    before = Cursor.parse(text) if text else None
    if text and before is None:
        raise refused_value("before", "expected the 'next' of an earlier response.")
    return before


def parse_month(text: str, _: date) -> tuple[date, date]:
    first = _parse_day("month", text, "a month, YYYY-MM, as 2026-01", "-01")
    return first, first.replace(day=monthrange(first.year, first.month)[1])


def _parse_last(text: str, today: date) -> tuple[date, date]:
    if not (match := _LAST.fullmatch(text)):
        raise refused_value("last", f"expected a number of days, today included, as 30d, but got '{excerpt(text)}'.")
    return today - timedelta(days=int(match[1]) - 1), today


def days_before(selection: UsageFilter) -> UsageFilter:
    """Returns the month before a whole month, else as many days directly before.

    Raises: GatewayError INVALID_VALUE if the calendar has not as many.
    """
    days = (selection.last - selection.first).days + 1
    if selection.first.toordinal() <= days:
        raise refused_value("compare", f"there are not {days} days before {selection.first}.")
    if selection.first.day == 1 and days == monthrange(selection.first.year, selection.first.month)[1]:
        end = selection.first - timedelta(days=1)
        return UsageFilter(end.replace(day=1), end, selection.tenant)
    span = timedelta(days=days)
    return UsageFilter(selection.first - span, selection.last - span, selection.tenant)
