"""The calendar of quotas and reports: days and months in one time zone."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache, partial
from typing import Final

_DAY_S: Final = 86_400
_BEHIND_DAYS: Final = 3
_AHEAD_DAYS: Final = 63
"""Span of the offsets around a moment: beyond the end of the next month, and of a server's clock that differs."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days and months in a time zone. A day begins at its first moment, which need not be 0:00."""

    name: str = "UTC"  # IANA
    zone: tzinfo = UTC

    def day(self, moment_s: float) -> date:
        """Returns the day of a moment in Unix seconds."""
        return datetime.fromtimestamp(moment_s, self.zone).date()

    def end_s(self, day: date) -> int:
        """Returns the Unix second at which a day ends: the first of later days."""
        return _end_s(self, day)

    def start(self, day: date) -> datetime:
        """Returns the moment at which a day begins, in UTC."""
        return datetime.fromtimestamp(self.end_s(day - timedelta(days=1)), UTC)

    def offsets(self, moment_s: float) -> str:
        """Renders the offsets from UTC around a moment for windows.lua; empty for UTC.

        Returns: "SINCE:OFFSET" joined by commas, both in seconds.
        """
        return "" if self.zone is UTC else _offsets(self, int(moment_s // _DAY_S))

    def offset_s(self, moment_s: int) -> int:
        """Returns the offset from UTC, in seconds."""
        offset = datetime.fromtimestamp(moment_s, self.zone).utcoffset()
        return round(offset.total_seconds()) if offset else 0


UTC_CALENDAR: Final = Calendar()


@lru_cache(maxsize=256)
def _end_s(calendar: Calendar, day: date) -> int:
    middle_s = round(datetime.combine(day, time(12), UTC).timestamp())
    return _first_s(middle_s - _DAY_S, middle_s + 2 * _DAY_S, lambda moment_s: calendar.day(moment_s) > day)


@lru_cache(maxsize=8)
def _offsets(calendar: Calendar, today: int) -> str:
    """`today` counts from the Unix epoch."""
    first_s, end_s = ((today + days) * _DAY_S for days in (-_BEHIND_DAYS, _AHEAD_DAYS))
    found = [(first_s, calendar.offset_s(first_s))]
    for second in range(first_s, end_s, _DAY_S):
        before = found[-1][1]
        if calendar.offset_s(second + _DAY_S) != before:
            since_s = _first_s(second, second + _DAY_S, partial(_differs, calendar, before))
            found.append((since_s, calendar.offset_s(since_s)))
    return ",".join(f"{since_s}:{offset_s}" for since_s, offset_s in found)


def _differs(calendar: Calendar, offset_s: int, moment_s: int) -> bool:
    return calendar.offset_s(moment_s) != offset_s


def _first_s(low_s: int, high_s: int, holds: Callable[[int], bool]) -> int:
    """Returns the first second after `low_s` at which `holds` is true, as it is at `high_s`."""
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        low_s, high_s = (low_s, middle_s) if holds(middle_s) else (middle_s, high_s)
    return high_s
