"""Forecasts of budgets and notices of keys that expire, on a clock of the test's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.metering.notices import NOTICE_LEADER, Notices
from gateway.redis import Client, LeaderLock, execute
from tests.support.admissions import connected
from tests.support.admitting import KEY_ID, put_tenant

pytestmark = pytest.mark.anyio
DAY_S = 86_400


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Checks:
    """Two processes that check at a time of the test's own."""

    def __init__(self, redis: Client, calendar: Calendar) -> None:
        self.redis, self.now_s, self.told = redis, at("2026-09-10T12:00"), list[str]()
        lock = LeaderLock(redis, NOTICE_LEADER, "p", 3600)
        self.processes = [Notices(redis, lock, lambda: self.now_s, calendar, self.notify) for _ in range(2)]

    async def notify(self, tenant: str) -> None:
        self.told.append(tenant)

    async def spend(self, charged: int, credited: int = 0, month: str = "202609") -> None:
        amounts = {"charged_usd_micros": charged, "credited_usd_micros": credited}
        items = [part for pair in amounts.items() for part in pair]
        await execute(self.redis, self.redis.hset(f"ig3:{{acme}}:month:{month}", items=items), int)

    async def check(self, text: str = "") -> list[dict[str, Any]]:
        """Returns all events, after a check by both processes at once."""
        self.now_s = at(text) if text else self.now_s
        await asyncio.gather(*(process.check() for process in self.processes))
        entries = await execute(self.redis, self.redis.xrange("ig3:{acme}:events"), list[tuple[str, dict[str, str]]])
        return [json.loads(fields["data"]) | {"type": fields["type"]} for _, fields in entries]


@asynccontextmanager
async def checking(url: str, calendar: Calendar = UTC_CALENDAR, **limits: int) -> AsyncIterator[Checks]:
    async with connected(url) as redis:
        await put_tenant(redis, limits=limits)
        yield Checks(redis, calendar)


async def test_a_spend_that_will_exceed_the_soft_budget_is_told_once_a_day(redis_url: str) -> None:
    async with checking(redis_url, soft_usd_micros_per_month=30_000_000, usd_micros_per_month=1) as checks:
        await checks.spend(9_500_001)
        [event] = await checks.check("2026-09-10T12:00")  # 9.5 of 30 days
        assert {
            "type": "budget.forecast_exceeded",
            "tenant": "acme",
            "budget": "soft_usd_per_month",
            "used": "9.500001",
            "limit": "30.00",
            "projected": "30.000003",
            "percent": 31,
            "window": "2026-09",
            "resets_at": int(at("2026-10-01T00:00")),
        } == event
        assert ["acme"] == checks.told
        assert 1 == len(await checks.check("2026-09-10T23:59"))
        await checks.spend(10_400_000)
        assert 1 == len(await checks.check("2026-09-11T12:00"))
        await checks.spend(10_600_000)
        assert 2 == len(await checks.check("2026-09-11T12:00"))


async def test_without_a_soft_budget_the_quota_counts_and_credits_are_subtracted(redis_url: str) -> None:
    async with checking(redis_url, usd_micros_per_month=30_000_000) as checks:
        await checks.spend(11_000_000, 2_000_000)
        assert [] == await checks.check()
        await checks.spend(11_000_000, 1_000_000)
        assert ["usd_per_month"] == [event["quota"] for event in await checks.check()]


@pytest.mark.parametrize("moment", ["2026-09-01T00:00", "2026-09-03T23:59"])
async def test_the_first_three_days_of_a_month_forecast_nothing(redis_url: str, moment: str) -> None:
    async with checking(redis_url, soft_usd_micros_per_month=1000) as checks:
        await checks.spend(999)
        assert [] == await checks.check(moment)
        assert 1 == len(await checks.check("2026-09-04T00:00"))


async def test_a_disabled_tenant_and_one_without_a_budget_hear_nothing(redis_url: str) -> None:
    async with checking(redis_url) as checks:
        await checks.spend(10**15)
        assert [] == await checks.check()
        await put_tenant(checks.redis, limits={"soft_usd_micros_per_month": 1})
        await execute(checks.redis, checks.redis.hset("ig3:{acme}:tenant", "disabled", "1"), int)
        assert [] == await checks.check()


async def test_the_month_is_that_of_the_zone(redis_url: str) -> None:
    calendar = Calendar("Pacific/Auckland", ZoneInfo("Pacific/Auckland"))
    async with checking(redis_url, calendar, soft_usd_micros_per_month=1) as checks:
        await checks.spend(1_000_000, month="202610")
        [event] = await checks.check("2026-10-03T12:00")  # there it is the fourth
        assert ("2026-10", int(at("2026-10-31T11:00"))) == (event["window"], event["resets_at"])


async def test_a_key_is_announced_14_and_3_days_before_its_expiry_and_on_the_last(redis_url: str) -> None:
    async with checking(redis_url) as checks:
        expires_at = int(at("2026-09-30T12:00"))
        record = {"keyed_hash": "-", "created_at": 1, "label": "shop", "expires_at": expires_at}
        await execute(checks.redis, checks.redis.hset("ig3:{acme}:keys", KEY_ID, json.dumps(record)), int)
        counts = list[int]()
        for moment in ("09-16T11:59", "09-16T12:00", "09-20T12:00", "09-27T12:00", "09-29T11:59", "09-29T12:00"):
            counts.append(len(await checks.check(f"2026-{moment}")))
        assert [0, 1, 1, 2, 2, 3] == counts
        events = await checks.check("2026-09-30T12:00")
        assert [14, 3, 0] == [event["days"] for event in events]
        about = {"type": "key.expiring", "tenant": "acme", "key_id": KEY_ID, "label": "shop", "expires_at": expires_at}
        assert [about | {"days": 14}] == events[:1]


async def test_a_key_that_got_more_time_is_announced_again(redis_url: str) -> None:
    async with checking(redis_url) as checks:
        for expires_s, expected in ((13 * DAY_S, 1), (13 * DAY_S, 1), (12 * DAY_S, 2)):
            record = {"keyed_hash": "-", "created_at": 1, "expires_at": int(checks.now_s) + expires_s}
            await execute(checks.redis, checks.redis.hset("ig3:{acme}:keys", KEY_ID, json.dumps(record)), int)
            assert expected == len(await checks.check())
