"""Reads the time zone of quotas and reports."""

from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from gateway.config.upstreams import SettingsError
from gateway.domain.calendar import UTC_CALENDAR, Calendar


def read_calendar(name: str) -> Calendar:
    """Raises: SettingsError for a zone that is not in this machine's time zone database."""
    if name == UTC_CALENDAR.name:
        return UTC_CALENDAR
    try:
        return Calendar(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a directory, such as "Europe"
        known = get_close_matches(name, available_timezones(), 1)
        remedy = f"did you mean '{known[0]}'?" if known else 'expected an IANA name, as "Europe/Berlin"'
        if not available_timezones():
            remedy = "this machine has no time zone database: install tzdata"
        raise SettingsError(f"metering.time_zone: there is no time zone '{name}'; {remedy}") from error
