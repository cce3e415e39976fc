"""Reads the time zone of quotas and reports."""

from contextlib import suppress
from difflib import get_close_matches
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from gateway.config.upstreams import SettingsError
from gateway.domain.calendar import UTC_CALENDAR, Calendar

_OF_MACHINES: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Not of IANA: they differ between machines."""
_CUTOFF: Final = 0.8
"""How alike two names are, from 0 to 1, if one is taken for a mistake in the other."""


def read_calendar(name: str) -> Calendar:
    """Raises: SettingsError for a zone that is not in this machine's time zone database."""
    if name == UTC_CALENDAR.name:
        return UTC_CALENDAR
    if name not in _OF_MACHINES:
        with suppress(ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a directory, such as "Europe"
            return Calendar(name, ZoneInfo(name))
    known = available_timezones() - _OF_MACHINES
    close = get_close_matches(name, known, 1, _CUTOFF)
    remedy = f"did you mean '{close[0]}'?" if close else 'expected an IANA name, as "Europe/Berlin"'
    if not known:
        remedy = "this machine has no time zone database: install tzdata"
    raise SettingsError(f"metering.time_zone: there is no time zone '{name}'; {remedy}")
