"""Sums by tag, user and upstream: what settlements add to them, and that records prove them."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest
import redis

from gateway.domain.attribution import Attribution, RequestFilter, TagFilter
from gateway.domain.usage import Discrepancy, GroupBy, Reconciliation, TenantDay, UsageFilter, UsageReport
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier
from tests.metering.desk import Desk
from tests.support.admissions import connected
from tests.support.bookkeeping import know

pytestmark = pytest.mark.anyio

NOON_S: Final = datetime(2026, 7, 28, 12, tzinfo=UTC).timestamp()
DAY: Final = date(2026, 7, 28)
SPLITS: Final = "ig3:{acme}:split_sums:20260728"
PROD: Final = Attribution({"env": "prod", "team": "x"}, "0123456789abcdef", ("tag:env", "user"))
ODD: Final = "a|b%7C%25=_,;"


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        know(client, "acme")
        yield client


async def usage(url: str, *by: GroupBy, tag: TagFilter | None = None) -> tuple[list[Any], int]:
    """Returns the rows as (group, requests, images, micro-dollars), and the total of micro-dollars."""
    async with connected(url) as client:
        report = UsageReport(by, 1000, wanted=RequestFilter(tag=tag))
        await Ledger(client).fill(report, UsageFilter(DAY, DAY))
    rows = [(*group, one.requests, one.delivered, one.usd_micros) for group, one in report.rows()]
    return rows, report.total.usd_micros


async def verified(url: str) -> Reconciliation:
    async with connected(url) as client:
        found, after = await LedgerVerifier(Ledger(client), 30, lambda: NOON_S).verify(UsageFilter(DAY, DAY))
    assert after is None
    return found


async def test_a_request_counts_in_the_sums_of_its_tags_its_user_and_its_upstream(each_redis: str) -> None:
    with redis.Redis.from_url(each_redis, decode_responses=True) as client:
        know(client, "acme")
        desk = Desk(client, NOON_S)
        for name, attribution in (
            ("r1", PROD),
            ("r2", Attribution({"env": ODD}, "", ("tag:env",))),
            ("r3", Attribution()),
        ):
            desk.admit(name, attribution=attribution)
            desk.send(name)
            desk.settle(name, "u/a:1,0,0,0")
    env = TagFilter("env")
    assert ([("", 1, 1, 3500), (f"env={ODD}", 1, 1, 3500), ("env=prod", 1, 1, 3500)], 10_500) == await usage(
        each_redis, GroupBy.TAG, tag=env
    )
    assert ([("", 2, 2, 7000), (PROD.user, 1, 1, 3500)], 10_500) == await usage(each_redis, GroupBy.USER)
    assert ([("u", 3, 3, 10_500)], 10_500) == await usage(each_redis, GroupBy.UPSTREAM)
    assert ([("m", 1, 1, 3500)], 3500) == await usage(each_redis, GroupBy.MODEL, tag=TagFilter("env", ODD))
    assert ([("", 3, 3, 10_500)], 10_500) == await usage(each_redis, GroupBy.TAG, tag=TagFilter("team"))
    assert Reconciliation(days=1, records=3) == await verified(each_redis)


async def test_upstreams_share_the_cost_to_the_micro_dollar_and_the_request_counts_once(
    books: "redis.Redis", redis_url: str
) -> None:
    desk = Desk(books, NOON_S)
    desk.admit("r1", 3, cost=10)
    desk.send("r1", 1, "far/a")
    desk.send("r1", 2, "near/a")
    desk.settle("r1", "dead/a:0,0,0,0;far/a:0,0,0,1;near/a:2,0,0,0")
    rows, total = await usage(redis_url, GroupBy.UPSTREAM)
    assert ([("far", 1, 0, 3), ("near", 0, 2, 7)], 10) == (rows, total)
    assert Reconciliation(days=1, records=1) == await verified(redis_url)
    desk.settle("r1", "near/a:3,0,0,0")
    assert ([("far", 0, 0, 0), ("near", 1, 3, 10)], 10) == await usage(redis_url, GroupBy.UPSTREAM)
    assert Reconciliation(days=1, records=1) == await verified(redis_url)


async def test_a_request_that_was_never_sent_is_in_no_such_sum(books: "redis.Redis") -> None:
    desk = Desk(books, NOON_S)
    desk.admit("r1", attribution=PROD)
    desk.settle("r1")
    assert not books.exists(SPLITS)


async def test_a_reservation_of_a_dead_process_keeps_its_tags(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    for name in ("sent", "never"):
        desk.admit(name, attribution=PROD)
    desk.send("sent")
    desk.clock.advance(120)
    assert ["settled", "settled"] == [desk.expire(name) for name in ("sent", "never")]
    assert ([("env=prod", 1, 0, 3500)], 3500) == await usage(redis_url, GroupBy.TAG, tag=TagFilter("env", "prod"))
    desk.settle("sent", "u/a:1,0,0,0")  # its journal, replayed
    desk.settle("never", "u/a:1,0,0,0")
    assert ([("env=prod", 2, 2, 7000)], 7000) == await usage(redis_url, GroupBy.TAG, tag=TagFilter("env", "prod"))
    assert Reconciliation(days=1, records=2) == await verified(redis_url)


async def test_a_thousand_values_have_sums_and_the_rest_is_summed_together(
    books: "redis.Redis", redis_url: str
) -> None:
    desk = Desk(books, NOON_S)

    def buy(name: str, user: str) -> None:
        desk.admit(name, attribution=Attribution({"env": "prod"}, user, ("tag:env", "user")))
        desk.send(name)
        desk.settle(name, "u/a:1,0,0,0")

    buy("r1", "first")
    books.hincrby(SPLITS, "user", 998)
    for name, user in (("r2", "second"), ("r3", "third"), ("r4", "fourth"), ("r5", "second")):
        buy(name, user)
    expected = [("_other", 2, 2, 7000), ("first", 1, 1, 3500), ("second", 2, 2, 7000)]
    assert (expected, 17_500) == await usage(redis_url, GroupBy.USER)
    assert ([("env=prod", 5, 5, 17_500)], 17_500) == await usage(redis_url, GroupBy.TAG, tag=TagFilter("env"))
    assert "1000" == books.hget(SPLITS, "user")
    books.hset(SPLITS, "user", 1)
    desk.settle("r3", "u/a:0,1,0,0")
    expected[0] = ("_other", 2, 1, 3500)
    assert (expected, 14_000) == await usage(redis_url, GroupBy.USER)
    assert Reconciliation(days=1, records=5) == await verified(redis_url)


async def test_these_sums_expire_with_the_records(books: "redis.Redis") -> None:
    desk = Desk(books, NOON_S)
    desk.admit("r1", attribution=PROD)
    desk.send("r1")
    desk.settle("r1", "u/a:1,0,0,0")
    assert books.expiretime("ig3:{acme}:ledger:20260728") == books.expiretime(SPLITS) > 0


@pytest.mark.parametrize("split", ["tag:env=prod", "user=0123456789abcdef", "upstream=u"])
async def test_a_sum_that_is_off_is_found(books: "redis.Redis", redis_url: str, split: str) -> None:
    desk = Desk(books, NOON_S)
    desk.admit("r1", attribution=PROD)
    desk.send("r1")
    desk.settle("r1", "u/a:1,0,0,0")
    books.hincrby(SPLITS, f"{split.replace('=', '|')}|k1|usd_micros|m", -1)
    expected = Discrepancy(TenantDay(DAY, "acme"), "k1", "m", "usd_micros", 3499, 3500, split=split)
    assert Reconciliation(days=1, records=1, differences=[expected]) == await verified(redis_url)


async def test_a_settlement_of_an_earlier_version_is_summed_when_it_is_corrected(
    books: "redis.Redis", redis_url: str
) -> None:
    desk = Desk(books, NOON_S)
    desk.admit("r1", 2, attribution=PROD, cost=7000)
    desk.send("r1", 2)
    desk.settle("r1", "u/a:1,0,0,0")
    found: Any = books.xrange("ig3:{acme}:ledger:20260728")
    [(entry, fields)] = found
    books.xdel("ig3:{acme}:ledger:20260728", entry)
    earlier = {name: value for name, value in fields.items() if name not in {"tags", "user", "summed"}}
    books.hset("ig3:{acme}:reservation:r1", "entry", books.xadd("ig3:{acme}:ledger:20260728", earlier))
    books.hdel("ig3:{acme}:reservation:r1", "settled:upstreams")
    books.delete(SPLITS)
    assert Reconciliation(days=1, records=1) == await verified(redis_url)
    desk.settle("r1", "u/a:2,0,0,0")
    assert ([("env=prod", 1, 2, 7000)], 7000) == await usage(redis_url, GroupBy.TAG, tag=TagFilter("env"))
    assert Reconciliation(days=1, records=1) == await verified(redis_url)


async def test_no_history_of_settlements_and_corrections_leaves_a_difference(
    books: "redis.Redis", redis_url: str
) -> None:
    chance, desk = random.Random(18), Desk(books, NOON_S)
    books.hset(SPLITS, "user", 997)
    for number in range(60):
        tags = {"env": chance.choice(["prod", "dev", ODD]), "team": chance.choice("xyz")}
        user = chance.choice(["", "ann", "bob", "cid", "dan", "eve"])
        summed = ("tag:env", "tag:team", *(["user"] if user else []))
        desk.admit(f"r{number}", 7, attribution=Attribution(tags, user, summed), cost=chance.choice([100, 24_500]))
        for account in ("far/a", "near/a"):
            if chance.random() < 0.7:
                desk.send(f"r{number}", chance.randint(1, 3), account)
        for _ in range(chance.randint(1, 3)):
            if chance.random() < 0.3:
                desk.clock.advance(61)
                desk.expire(f"r{number}")
            else:
                counts = [",".join(str(chance.randint(0, 1)) for _ in range(4)) for _ in range(3)]
                calls = zip(("far/a", "far/b", "near/a"), counts, strict=True)
                desk.settle(f"r{number}", ";".join(f"{one}:{count}" for one, count in calls if chance.random() < 0.7))
    found = await verified(redis_url)
    assert (1, []) == (found.days, found.differences)
    assert 40 < found.records
    for by in (GroupBy.USER, GroupBy.UPSTREAM, GroupBy.TAG):
        rows, total = await usage(redis_url, by, tag=TagFilter("env") if by is GroupBy.TAG else None)
        assert total == sum(row[-1] for row in rows)
