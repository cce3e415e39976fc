"""Events about quotas and soft budgets: each percentage once a window, in order, and of charges only."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest
import redis

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.events import EventType
from tests.metering.buyers import buy_from_processes
from tests.metering.desk import BASE, Desk
from tests.support.admissions import buy as buy_image
from tests.support.admissions import connected
from tests.support.admitting import admitting, put_tenant

NOON_S: Final = 1_785_585_600
"""2026-08-01."""
DAY_S: Final = 86_400
DEFAULT: Final = (50, 80, 100)
CROSSED: Final = "quota.threshold_crossed"


@pytest.fixture
def server(redis_url: str) -> Iterator["redis.Redis"]:
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def desk(server: "redis.Redis") -> Desk:
    desk = Desk(server, NOON_S)
    desk.percents = DEFAULT
    return desk


def events(server: "redis.Redis") -> list[tuple[str, dict[str, Any]]]:
    entries: Any = server.xrange(f"{BASE}events")
    assert {fields["type"] for _, fields in entries} <= {event.value for event in EventType}
    return [(fields["type"], json.loads(fields["data"])) for _, fields in entries]


def percents(server: "redis.Redis") -> list[int]:
    return [data["percent"] for kind, data in events(server) if kind != "quota.exhausted"]


def buy(desk: Desk, name: str, images: int, delivered: int | None = None) -> None:
    assert "admitted" == desk.admit(name, images)["decision"]
    desk.send(name, images)
    settle(desk, name, images if delivered is None else delivered, images)


def settle(desk: Desk, name: str, delivered: int, images: int) -> None:
    desk.settle(name, f"u/a:{delivered},{images - delivered},0,0")


def test_each_percentage_of_a_quota_is_reported_with_what_is_used(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    for number in range(10):
        buy(desk, f"t{number}", 1)
    common = {"tenant": "acme", "quota": "images_per_day", "limit": 10, "window": "2026-08-01"}
    common |= {"resets_at": 1_785_628_800}
    crossed = [{"percent": percent, "used": percent // 10} for percent in DEFAULT]
    assert [(CROSSED, common | one) for one in crossed] == events(server)


def test_a_settlement_that_passes_two_percentages_reports_both_in_order(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_month=10)
    buy(desk, "t1", 9)
    assert [(50, 9), (80, 9)] == [(data["percent"], data["used"]) for _, data in events(server)]
    assert ["2026-08"] * 2 == [data["window"] for _, data in events(server)]


def test_what_is_only_reserved_or_not_charged_reports_nothing(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10, images_per_month=10)
    desk.admit("t1", 10)
    assert [] == events(server)
    desk.send("t1", 10)
    settle(desk, "t1", 0, 10)
    assert [] == events(server)


def test_a_correction_that_lowers_and_raises_reports_nothing_again(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    buy(desk, "t1", 8)
    for delivered in (2, 8, 0, 7):
        settle(desk, "t1", delivered, 8)
    assert [50, 80] == percents(server)
    buy(desk, "t2", 3)
    assert [50, 80, 100] == percents(server)


def test_an_expired_reservation_reports_what_it_is_charged(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    desk.admit("t1", 5)
    desk.send("t1", 5)
    desk.clock.advance(61)
    assert "settled" == desk.expire("t1")
    assert [50] == percents(server)
    settle(desk, "t1", 8, 8)  # a journal knows better
    assert [50, 80] == percents(server)


def test_a_raised_quota_is_reported_anew(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    buy(desk, "t1", 10)
    assert "quota" == desk.admit("t2", 1)["decision"] == desk.admit("t3", 1)["decision"]
    desk.limit(images_per_day=40)
    buy(desk, "t4", 9)
    assert [50, 80, 100] == percents(server)  # 19 of 40
    buy(desk, "t5", 2)
    assert [50, 80, 100, 50] == percents(server)
    buy(desk, "t6", 19)
    assert "quota" == desk.admit("t8", 1)["decision"] == desk.admit("t9", 1)["decision"]
    limits = [(kind == CROSSED, data["percent"], data["limit"]) for kind, data in events(server)]
    assert [(True, 50, 10), (True, 80, 10), (True, 100, 10), (False, 100, 10), (True, 50, 40)] == limits[:5]
    assert [(True, 80, 40), (True, 100, 40), (False, 100, 40)] == limits[5:]


def test_a_quota_that_is_lowered_and_raised_again_reports_nothing_twice(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    buy(desk, "t1", 5)
    desk.limit(images_per_day=8)
    buy(desk, "t2", 1)
    desk.limit(images_per_day=10)
    buy(desk, "t3", 1)
    assert [50] == percents(server)
    buy(desk, "t4", 1)
    assert [50, 80] == percents(server)


def test_the_next_window_begins_anew(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=2)
    for day in range(3):
        buy(desk, f"t{day}", 1)
        desk.clock.advance(DAY_S)
    assert [("2026-08-01", 50), ("2026-08-02", 50), ("2026-08-03", 50)] == [
        (data["window"], data["percent"]) for _, data in events(server)
    ]


def test_money_and_a_soft_budget_are_in_dollars_and_the_budget_refuses_nothing(
    server: "redis.Redis", desk: Desk
) -> None:
    desk.limit(usd_micros_per_month=70_000, soft_usd_micros_per_month=10_500)
    for number in range(4):
        buy(desk, f"t{number}", 3)
    found = [(kind, data.get("budget"), data["percent"], data["used"], data["limit"]) for kind, data in events(server)]
    soft = [
        ("budget.threshold_crossed", "soft_usd_per_month", percent, "0.0105", "0.0105") for percent in (50, 80, 100)
    ]
    assert [*soft, (CROSSED, None, 50, "0.042", "0.07")] == found


def test_a_key_has_events_of_its_own(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=4)
    desk.limit_key(images_per_day=2)
    buy(desk, "t1", 2)
    found = [(data.get("key_id"), data["percent"]) for _, data in events(server)]
    assert [(None, 50), ("k1", 50), ("k1", 80), ("k1", 100)] == found


def test_a_tenant_s_own_percentages_replace_the_setting(server: "redis.Redis", desk: Desk) -> None:
    desk.limit(images_per_day=10)
    server.hset(f"{BASE}tenant", "about", json.dumps({"alert_percents": [30, 120]}))
    buy(desk, "t1", 10)
    assert [30] == percents(server)


def test_a_percentage_of_a_large_limit_is_exact(server: "redis.Redis", desk: Desk) -> None:
    limit = 999_999_999_999_999
    desk.limit(usd_micros_per_month=limit)
    desk.percents = (33,)
    least = -(-limit * 33 // 100)
    buy(desk, "t1", 1)
    window = f"{BASE}month:202608"
    server.hset(window, "charged_usd_micros", least - 3501)
    buy(desk, "t2", 1)
    assert [] == events(server)
    buy(desk, "t3", 1)
    assert [33] == percents(server)


def test_the_first_refusal_of_a_quota_in_a_window_is_reported(server: "redis.Redis", desk: Desk) -> None:
    desk.percents = ()
    desk.limit(images_per_day=3, images_per_month=4)
    desk.limit_key(usd_micros_per_month=10_500)
    assert "quota" == desk.admit("huge", 5)["decision"]  # more than is ever allowed exhausts nothing
    buy(desk, "t1", 2)
    replies = [desk.admit(f"r{number}", 2).get("has_events") for number in range(3)]
    assert [True, None, None] == replies
    found = [(kind, data["quota"], data["used"], data["limit"], data["asked"]) for kind, data in events(server)]
    assert [
        ("quota.exhausted", "images_per_day", 2, 3, 2),
        ("quota.exhausted", "usd_per_month", "0.007", "0.0105", "0.007"),
    ] == found
    desk.clock.advance(DAY_S)
    desk.limit_key()
    buy(desk, "t2", 1)
    assert [None, True, None] == [desk.admit(f"s{images}", images).get("has_events") for images in (1, 2, 2)]
    assert ["images_per_day", "images_per_month"] == [data["quota"] for _, data in events(server)[2:]]


def test_a_random_history_reports_each_percentage_once_in_order(server: "redis.Redis", desk: Desk) -> None:
    """Beside a model: the highest charge that a window has ever had decides which percentages were reported."""
    limit, draw = 150, random.Random(18)
    desk.limit(images_per_month=limit)
    desk.percents = (10, 25, 50, 75, 90, 100)
    charged, highest = dict[str, tuple[int, int]](), 0
    for number in range(150):
        name = f"t{number}"
        if number and draw.random() < 0.4:
            name = draw.choice(list(charged))
            images = charged[name][0]
            delivered = draw.randint(0, images)
        else:
            images = draw.randint(1, 9)
            if "admitted" != desk.admit(name, images)["decision"]:
                continue
            desk.send(name, images)
            delivered = draw.randint(0, images)
        charged[name] = images, delivered
        settle(desk, name, delivered, images)
        highest = max(highest, sum(made for _, made in charged.values()))
        assert [percent for percent in desk.percents if 100 * highest >= percent * limit] == percents(server)
    assert len(percents(server)) > 3


@pytest.mark.slow
def test_four_processes_report_each_percentage_once_in_order(redis_url: str, server: "redis.Redis") -> None:
    """300 requests at once, of which a quota of 100 images admits 100."""
    replies = buy_from_processes(redis_url, processes=4, requests=75, limits={"images_per_month": 100})
    assert [*DEFAULT] == [data["percent"] for kind, data in events(server) if kind == CROSSED]
    assert Counter({CROSSED: 3, "quota.exhausted": 1}) == Counter(kind for kind, _ in events(server))
    assert Counter(admitted=100, QUOTA_EXHAUSTED=200) == replies


@pytest.mark.slow
def test_corrections_of_four_processes_report_nothing_twice(redis_url: str, server: "redis.Redis") -> None:
    buy_from_processes(redis_url, processes=4, requests=75, limits={"images_per_month": 300}, corrects=True)
    found = [data["percent"] for kind, data in events(server) if kind == CROSSED]
    assert [*DEFAULT] == found


@pytest.mark.anyio
async def test_whoever_runs_the_script_is_told_of_events(redis_url: str) -> None:
    told: list[str] = []

    async def notify(tenant: str) -> None:
        told.append(tenant)
        raise GatewayError(ErrorCode.REDIS_UNAVAILABLE)  # which no request is to notice

    async with connected(redis_url) as client:
        caller = await put_tenant(client, limits={"images_per_day": 4})
        admission = admitting(client, alert_percents=DEFAULT, notify=notify)
        await buy_image(admission, caller)
        assert [] == told
        await buy_image(admission, caller)
        assert ["acme"] == told
        await buy_image(admission, caller)
        with pytest.raises(GatewayError):
            await buy_image(admission, caller, 2)
        assert ["acme", "acme"] == told
