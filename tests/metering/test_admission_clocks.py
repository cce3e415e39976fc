"""Admission while the server's clock jumps, as at a failover to a machine whose clock is another."""

from typing import Any

import pytest
import redis

from tests.metering.desk import Desk

NOON_S = 1_785_585_600
"""2026-08-01."""
MIDNIGHT_S = 1_785_542_400
"""The first moment of 2026-08-01."""


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize("back_s", [1, 5, 30, 60, 61, 300, 86_400])
def test_seconds_that_the_clock_has_not_reached_yet_do_not_count(server: "redis.Redis", back_s: int) -> None:
    """A replica whose clock is behind took over: it does not know how long ago they were."""
    desk = Desk(server, NOON_S, requests_per_minute=3)
    for number in range(3):
        assert "admitted" == desk.admit(f"before{number}")["decision"]
    desk.clock.advance(-back_s)
    assert 0 == desk.used()["requests_last_minute"]
    for number in range(3):
        reply = desk.admit(f"after{number}")
        requests = {"limit": 3, "remaining": 2 - number, "reset_s": 61}
        assert ("admitted", requests) == (reply["decision"], reply["rates"]["requests"])
    refused = desk.admit("fourth")
    assert ("rate", NOON_S - back_s + 61) == (refused["decision"], refused["frees_at_s"])


@pytest.mark.parametrize("back_s", [0, 1, 5, 30, 60, 61, 300])
def test_a_refusal_never_tells_to_wait_for_longer_than_a_minute(server: "redis.Redis", back_s: int) -> None:
    desk = Desk(server, NOON_S, requests_per_minute=3, images_per_minute=20)
    for at_s in range(0, 55, 11):
        desk.clock.set(NOON_S + at_s)
        desk.admit(f"t{at_s}", 4)
    desk.clock.advance(-back_s)
    for number in range(10):
        reply = desk.admit(f"after{number}", 5)
    assert "rate" == reply["decision"]
    assert 0 < reply["frees_at_s"] - reply["now_s"] <= 61
    assert 61 >= max(reply["rates"][measure]["reset_s"] for measure in ("requests", "images"))


def test_what_a_small_step_back_leaves_out_counts_again_when_the_clock_is_there(server: "redis.Redis") -> None:
    """So a step of half a second opens a limit for half a second, and what is given back finds its second."""
    desk = Desk(server, NOON_S, images_per_minute=9)
    desk.admit("first", 9)
    desk.clock.advance(-5)
    assert "admitted" == desk.admit("second", 4)["decision"]
    desk.clock.advance(5)
    assert 13 == desk.used()["images_last_minute"]
    desk.settle("first")
    assert (4, 2) == (desk.used()["images_last_minute"], desk.used()["requests_last_minute"])


def test_a_rate_is_never_negative(server: "redis.Redis") -> None:
    """Its second was forgotten while the clock was far behind, and is another one when it comes again."""
    desk = Desk(server, NOON_S, images_per_minute=9)
    desk.admit("early", 9)
    desk.clock.advance(-300)
    desk.admit("between", 1)
    desk.clock.advance(300)
    desk.admit("late", 2)
    desk.settle("early")
    assert 0 <= desk.used()["images_last_minute"] <= 2
    assert 0 <= desk.used()["requests_last_minute"] <= 1
    assert [desk.admit(f"more{number}", 9)["decision"] for number in range(2)][1] == "rate"


@pytest.mark.parametrize("renew", ["extend", "send"])
@pytest.mark.parametrize("back_s", [30, 300, 86_400])
def test_after_a_step_back_a_renewal_counts_from_the_new_time(server: "redis.Redis", back_s: int, renew: str) -> None:
    """Otherwise a process that dies then would hold its places for as long as the step, besides its lease."""
    desk = Desk(server, NOON_S)
    desk.admit("t")
    desk.clock.advance(-back_s)
    getattr(desk, renew)("t")
    desk.clock.advance(59)
    assert "alive" == desk.expire("t")
    desk.clock.advance(2)
    assert "settled" == desk.expire("t")
    assert (0, 0) == (desk.used()["open_requests"], desk.used()["concurrency"])


def test_a_step_forward_settles_what_is_under_way_and_its_own_answer_corrects_it(server: "redis.Redis") -> None:
    desk = Desk(server, NOON_S)
    desk.admit("t", 3)
    desk.send("t", 3)
    desk.clock.advance(61)
    assert "settled" == desk.expire("t")
    assert 3 == desk.used()["images_today"]
    desk.settle("t", "u/a:1,0,2,0")
    assert (1, 0) == (desk.used()["images_today"], desk.used()["open_requests"])


@pytest.mark.parametrize("jump_s", [-10, 10])
def test_a_day_and_a_month_go_on_where_they_were_when_the_clock_comes_back(server: "redis.Redis", jump_s: int) -> None:
    """Over midnight and the end of a month: each is a counter of its own, which a jump neither moves nor ends."""
    desk = Desk(server, MIDNIGHT_S - jump_s / 2, images_per_day=5, images_per_month=5)
    desk.admit("here", 4)
    desk.clock.advance(jump_s)
    assert (0, 0) == (desk.used()["images_today"], desk.used()["images_this_month"])
    assert "admitted" == desk.admit("there", 5)["decision"]
    desk.settle("here", "u/a:4,0,0,0")
    assert (5, 5) == (desk.used()["images_today"], desk.used()["images_this_month"])
    desk.clock.advance(-jump_s)
    assert (4, 4) == (desk.used()["images_today"], desk.used()["images_this_month"])
    refused = desk.admit("more", 2)
    month_ends_s = MIDNIGHT_S if jump_s > 0 else MIDNIGHT_S + 31 * 86_400
    assert ("quota", month_ends_s) == (refused["decision"], refused["frees_at_s"])
