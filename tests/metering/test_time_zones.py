"""Windows of quotas in time zones, beside Python's own time zones."""

from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
import redis

from gateway.domain.calendar import Calendar
from gateway.metering.reservations import PARTS
from gateway.metering.time_zone import find_zone_problems
from gateway.redis import execute
from tests.metering.desk import BASE, Desk
from tests.support.admissions import connected
from tests.support.clocked import Clock, clocked_script

ZONES: Final = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Kiritimati"),
    *("Pacific/Pago_Pago", "Africa/Cairo", "America/Havana", "Africa/Casablanca"),
)
"""With clock changes of an hour and of half an hour, at midnight, and none."""


@pytest.fixture
def server(redis_url: str) -> Iterator["redis.Redis"]:
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


def first_s(zone: ZoneInfo, day: date) -> int:
    """Returns the first second of a day, found by looking at every quarter of an hour."""
    at_s = round(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("UTC")).timestamp()) - 2 * 86_400
    while datetime.fromtimestamp(at_s, zone).date() < day:
        at_s += 900
    return at_s


@pytest.mark.parametrize("name", ZONES)
def test_days_and_months_begin_at_the_first_moment_of_the_zone(server: "redis.Redis", name: str) -> None:
    admit = clocked_script(server, "metering/admit", PARTS["admit"])
    server.hset(f"{BASE}tenant", mapping={"created_at": 1, "limits": '{"images_per_day":0,"images_per_month":1}'})
    keys = [BASE + end for end in ("tenant", "keys", "reservation:t", "open", "x", "rate", "x")]
    zone, clock = ZoneInfo(name), Clock(server)
    for day in (date(2026, 1, 1) + timedelta(days=number) for number in range(366)):
        begins_s, next_s = first_s(zone, day), first_s(zone, day + timedelta(days=1))
        is_change = next_s - begins_s != 86_400
        if not is_change and day.day not in {1, 28}:
            continue
        month_ends_s = first_s(zone, (day.replace(day=1) + timedelta(days=32)).replace(day=1))
        for moment_s in (begins_s, next_s - 1):
            clock.set(moment_s)
            offsets = Calendar(name, zone).offsets(moment_s)
            told = [
                admit(keys=keys, args=["t", "", "rq", "m", images, "0:1", 1000, 0, "", "", "", "", "null", offsets])
                for images in (1, 2)
            ]
            assert f'"frees_at_s":{next_s}' in told[0], (day, moment_s)
            assert f'"frees_at_s":{month_ends_s}' in told[1], (day, moment_s)


def test_a_request_before_local_midnight_is_of_the_old_day_and_month(server: "redis.Redis") -> None:
    """23:30 and 0:30 in Berlin are of one day in UTC, and settled there long after."""
    zone = Calendar("Europe/Berlin", ZoneInfo("Europe/Berlin"))
    before_s = round(datetime(2026, 6, 30, 21, 30, tzinfo=ZoneInfo("UTC")).timestamp())
    desk = Desk(server, before_s, images_per_day=9)
    desk.calendar = zone
    desk.admit("old", 2)
    desk.clock.advance(3600)
    assert 0 == desk.used()["images_today"]
    desk.admit("new", 3)
    for name in ("old", "new"):
        desk.send(name)
        desk.settle(name, f"u/a:{2 if name == 'old' else 3},0,0,0")
    assert {"20260630": 1, "20260701": 1} == {
        day: server.xlen(f"{BASE}ledger:{day}") for day in ("20260630", "20260701")
    }
    assert ["2", "3"] == [server.hget(f"{BASE}{name}", "images") for name in ("month:202606", "day:20260701")]
    end_s: Any = server.hget(f"{BASE}records_end", "20260630")
    assert zone.end_s(date(2026, 6, 30)) + 3660 * 86_400 == int(end_s)


@pytest.mark.anyio
async def test_the_zone_of_the_data_is_recorded_and_another_one_refused(redis_url: str) -> None:
    async with connected(redis_url) as client:
        assert [] == await find_zone_problems(client, "Europe/Berlin", is_recorded=False)
        assert not await execute(client, client.exists("ig3:time_zone"), int)
        assert [] == await find_zone_problems(client, "Europe/Berlin", is_recorded=True)
        for is_recorded in (False, True):
            assert [] == await find_zone_problems(client, "Europe/Berlin", is_recorded=is_recorded)
            [problem] = await find_zone_problems(client, "UTC", is_recorded=is_recorded)
            assert "usage is recorded in 'Europe/Berlin'" in problem
            assert "redis-cli set ig3:time_zone UTC" in problem


@pytest.mark.anyio
async def test_data_without_a_recorded_zone_is_utc(redis_url: str) -> None:
    async with connected(redis_url) as client:
        await execute(client, client.sadd("ig3:tenants", "acme"), int)
        [problem] = await find_zone_problems(client, "Europe/Berlin", is_recorded=True)
        assert "usage is recorded in 'UTC'" in problem
        assert "UTC" == await execute(client, client.get("ig3:time_zone"), str)
