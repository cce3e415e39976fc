"""The pool's scripts on a clock that the test sets: what only a jump, or a long log, shows."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from gateway.domain.accounts import AccountLimits
from gateway.scheduler import channel_of
from tests.scheduler.plans import Configuration
from tests.scheduler.processes import ALIVE_US
from tests.scheduler.reports import encode
from tests.scheduler.scripted_pool import ClockedPool

NOW_S = 1_785_000_000.0
LEASE_US = 60_000_000
TERMS = {
    "margin_us": 1_000_000,
    "max_queue_length": 1000,
    "breaker_failures": 5,
    "breaker_open_us": 10_000_000,
    "paced": 0,
}


@pytest.fixture
def pool(redis_url: str) -> Iterator[ClockedPool]:
    with redis.Redis.from_url(redis_url) as client:
        yield ClockedPool(client)


def declare(pool: ClockedPool, number: int, now_s: float, process: str = "p", **limits: AccountLimits) -> None:
    keys = {account: {"k": f"fp-{account}"} for account in limits}
    configuration = Configuration(number, limits, keys, TERMS | {"retry_budget_percent": 20, "retries_min": 3})
    pool.run("members", now_s, "declare", encode(configuration.describe(process)), "")


def lease(pool: ClockedPool, lease_id: str, now_s: float, images: int = 1) -> Any:
    args = (lease_id, channel_of("p"), "t", 1, images, "m", 0, "", 0, LEASE_US, ALIVE_US, "i")
    return pool.run("lease", now_s, *args).answer["decision"]


def test_a_configuration_that_is_declared_after_the_clock_was_set_back_is_the_newest(pool: ClockedPool) -> None:
    declare(pool, 1, NOW_S, "old", a=AccountLimits(20, 100, 20))
    declare(pool, 2, NOW_S - 30, "new", a=AccountLimits(2, 100, 20))
    assert ["leased", "leased", "busy"] == [lease(pool, f"l{number}", NOW_S - 29) for number in range(3)]


def test_in_a_long_log_each_unsent_request_gives_back_its_own_room(pool: ClockedPool) -> None:
    """Beyond 64 entries, requests of one moment share an entry."""
    declare(pool, 1, NOW_S, a=AccountLimits(200, 200, 200))
    for number in range(64):
        assert "leased" == lease(pool, f"early{number}", NOW_S + number / 10)
    ids = [f"late{number}" for number in range(10)]
    for lease_id in ids:
        assert "leased" == lease(pool, lease_id, NOW_S + 10, 9)
    pool.run("cancel", NOW_S + 11, *reversed(ids))
    load = pool.state().loads["a"]
    assert (64, 64) == (sum(load["log"][1::4]), sum(load["log"][2::4]))


def test_an_account_that_is_gone_leaves_nothing_behind(pool: ClockedPool) -> None:
    declare(pool, 1, NOW_S, a=AccountLimits(), b=AccountLimits())
    assert "leased" == lease(pool, "one", NOW_S)
    declare(pool, 2, NOW_S + 1, b=AccountLimits())
    pool.run("cancel", NOW_S + 2, "one")
    pool.run("heartbeat", NOW_S + 70, channel_of("p"), ALIVE_US, LEASE_US, 0)
    assert {"b"} == pool.state().loads.keys()


def test_a_task_keeps_its_place_and_its_end_after_the_clock_was_set_back(pool: ClockedPool) -> None:
    """Its process is dead: another one is to take it over at once, and not when the clock is there again."""
    declare(pool, 1, NOW_S, a=AccountLimits(20, 100, 1))
    assert "leased" == lease(pool, "one", NOW_S)
    pool.run("task", NOW_S, "note", "one", "{}", 20_000_000, 600_000_000)

    def beat(now_s: float) -> None:
        pool.run("heartbeat", now_s, channel_of("p"), ALIVE_US, LEASE_US, 0)

    beat(NOW_S + 1)
    for second in range(0, 150, 15):
        beat(NOW_S - 3600 + second)
    assert 1 == pool.state().loads["a"]["in_flight"]
    assert ["{}"] == pool.run("task", NOW_S - 3450, "due", 20_000_000, 10).answer["tasks"]
    for second in range(150, 650, 15):
        beat(NOW_S - 3600 + second)
    assert 0 == pool.state().loads["a"]["in_flight"]
