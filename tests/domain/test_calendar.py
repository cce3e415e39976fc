from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.domain.calendar import UTC_CALENDAR, Calendar

ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati", "Africa/Cairo", "America/Havana")


def calendar(name: str) -> Calendar:
    return Calendar(name, ZoneInfo(name))


def moment_s(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp())


def test_a_day_is_that_of_the_zone() -> None:
    last = moment_s("2026-06-30T22:30:00+00:00")
    assert date(2026, 6, 30) == UTC_CALENDAR.day(last)
    assert date(2026, 7, 1) == calendar("Europe/Berlin").day(last)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 4, 24), date(2026, 10, 25), date(2026, 12, 31)])
def test_a_day_ends_with_the_first_second_of_the_next(name: str, day: date) -> None:
    zone = calendar(name)
    end_s = zone.end_s(day)
    assert [day, True] == [zone.day(end_s - 1), zone.day(end_s) > day]


def test_utc_has_no_offsets_and_other_zones_have_those_of_the_next_two_months() -> None:
    assert "" == UTC_CALENDAR.offsets(moment_s("2026-10-01T12:00:00+00:00"))
    found = calendar("Europe/Berlin").offsets(moment_s("2026-10-01T12:00:00+00:00"))
    changes = [tuple(map(int, change.split(":"))) for change in found.split(",")]
    assert [7200, 3600] == [offset for _, offset in changes]
    assert datetime(2026, 10, 25, 1, tzinfo=UTC).timestamp() == changes[1][0]
