"""Which order a request repeats: the table of metering/lua/repeats.lua, on a clock of the test's own."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import redis

from tests.metering.desk import BASE, Desk

NOW_S: Final = 1_785_000_000.0
UNKNOWN_S: Final = 30
KEYED_S: Final = 86_400


def identity(kind: str, name: str = "n1", fingerprint: str = "f1") -> dict[str, Any]:
    terms = {"unknown_ms": UNKNOWN_S * 1000, "keyed_ms": KEYED_S * 1000, "keys_max": 3}
    return {"kind": kind, "name": name, "fingerprint": fingerprint, "channel": "c"} | terms


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def desk(client: "redis.Redis") -> Desk:
    return Desk(client, NOW_S)


Act = Callable[[Desk], None]


def runs(desk: Desk) -> None:
    desk.send("r1")


def waits(desk: Desk) -> None:
    """Nothing is sent yet."""


def delivers(desk: Desk) -> None:
    desk.send("r1")
    desk.settle("r1", "u/a:1,0,0,0")


def breaks(desk: Desk) -> None:
    desk.send("r1")
    desk.fail("r1", "unconfirmed")


def is_refused(desk: Desk) -> None:
    desk.send("r1")
    desk.fail("r1", "refused")


def is_not_sent(desk: Desk) -> None:
    desk.settle("r1")


def dies(desk: Desk) -> None:
    desk.send("r1")
    desk.clock.advance(61)
    assert "settled" == desk.expire("r1")


def dies_unsent(desk: Desk) -> None:
    desk.clock.advance(61)
    assert "settled" == desk.expire("r1")


def dies_unswept(desk: Desk) -> None:
    desk.send("r1")
    desk.clock.advance(61)


STATES: Final = [
    # what became of the order, seconds since, whether its outcome is stored: the state for a key, and for a retry
    (waits, 0, False, "running", "running"),
    (runs, 0, False, "running", "running"),
    (dies_unswept, 0, False, "running", "running"),
    (delivers, 0, True, "ended", "ended"),
    (delivers, 600, True, "ended", "ended"),
    (delivers, 9, False, "running", "running"),
    (delivers, 11, False, "running", None),
    (delivers, 59, False, "running", None),
    (delivers, 61, False, "gone", None),
    (breaks, 0, False, "running", "unknown"),
    (breaks, 2, False, "unknown", "unknown"),
    (breaks, 2, True, "ended", "unknown"),
    (breaks, 29, False, "unknown", "unknown"),
    (dies, 2, False, "unknown", "unknown"),
    (is_refused, 0, False, None, None),
    (is_refused, 0, True, "ended", "ended"),
    (is_not_sent, 0, False, None, None),
    (dies_unsent, 2, False, None, None),
]


@pytest.mark.parametrize(("act", "age_s", "is_stored", "keyed", "retried"), STATES)
@pytest.mark.parametrize("is_keyed", [True, False])
def test_an_order_has_the_state_of_the_table(
    desk: Desk,
    client: "redis.Redis",
    act: Act,
    age_s: float,
    is_stored: bool,
    keyed: str | None,
    retried: str | None,
    is_keyed: bool,
) -> None:
    first, again, state = ("keyed", "keyed", keyed) if is_keyed else ("first", "retry", retried)
    assert "admitted" == desk.admit("r1", identity=identity(first))["decision"]
    act(desk)
    if is_stored:
        client.set(f"{BASE}outcome:r1", "{}")
    desk.clock.advance(age_s)
    reply = desk.admit("r2", identity=identity(again))
    if state is None:
        assert ("admitted", None) == (reply["decision"], reply.get("order"))
    else:
        assert ("repeated", "r1", state) == (reply["decision"], reply["order"]["id"], reply["order"]["state"])
        assert 0 == client.exists(f"{BASE}reservation:r2")


@pytest.mark.parametrize("kind", ["plain", "first", "keyed"])
def test_only_a_retry_joins_a_request_in_flight(desk: Desk, kind: str) -> None:
    desk.admit("r1", identity=identity("first"))
    assert "admitted" == desk.admit("r2", identity=identity(kind))["decision"]


@pytest.mark.parametrize("kind", ["plain", "first", "retry"])
def test_an_unknown_outcome_stops_every_identical_request_for_its_time(desk: Desk, kind: str) -> None:
    desk.admit("r1", identity=identity("plain"))
    breaks(desk)
    desk.clock.advance(12)
    order = desk.admit("r2", identity=identity(kind))["order"]
    assert ("unknown", "r1") == (order["state"], order["id"])
    assert 0 < order["left_ms"] <= UNKNOWN_S * 1000
    assert "admitted" == desk.admit("r3", identity=identity(kind, "other"))["decision"]


def test_a_key_does_not_see_an_unknown_outcome_without_it(desk: Desk) -> None:
    """A new key insists."""
    desk.admit("r1", identity=identity("plain"))
    breaks(desk)
    assert "admitted" == desk.admit("r2", identity=identity("keyed"))["decision"]


@pytest.mark.parametrize("act", [runs, delivers, breaks])
def test_a_key_of_another_request_is_reused(desk: Desk, act: Act) -> None:
    desk.admit("r1", identity=identity("keyed"))
    act(desk)
    assert "reused" == desk.admit("r2", identity=identity("keyed", fingerprint="f2"))["order"]["state"]


def test_a_key_is_forgotten_in_time(desk: Desk, client: "redis.Redis") -> None:
    desk.admit("r1", identity=identity("keyed"))
    delivers(desk)
    for name in ("idempotency:n1", "reservation:r1"):
        assert KEYED_S - 5 < client.ttl(f"{BASE}{name}") <= KEYED_S


def test_the_line_of_a_batch_is_remembered_beyond_its_window_however_long_keys_are(
    desk: Desk, client: "redis.Redis"
) -> None:
    """The processes may all be down for hours: the order alone says then that the line was bought."""
    desk.admit("r1", identity=identity("line") | {"keyed_ms": 3_600_000})
    desk.send("r1")
    desk.fail("r1", "unconfirmed")
    for name in ("idempotency:n1", "reservation:r1"):
        assert client.ttl(f"{BASE}{name}") > 86_400 + 3600


def test_the_keys_of_a_tenant_are_limited_until_the_oldest_leave(desk: Desk) -> None:
    admitted = [desk.admit(f"r{index}", identity=identity("keyed", f"n{index}")) for index in range(4)]
    assert ["admitted", "admitted", "admitted", "rate"] == [reply["decision"] for reply in admitted]
    assert ("idempotency_keys", "3") == (admitted[3]["limit"], admitted[3]["allowed"])
    desk.clock.set(admitted[3]["frees_at_s"] - 1)
    assert "rate" == desk.admit("r5", identity=identity("keyed", "n5"))["decision"]
    desk.clock.set(admitted[3]["frees_at_s"] + 1)
    assert "admitted" == desk.admit("r5", identity=identity("keyed", "n5"))["decision"]


@pytest.mark.parametrize("is_ended", [False, True])
def test_retries_join_the_order_that_fewest_have_joined(desk: Desk, client: "redis.Redis", is_ended: bool) -> None:
    for order in ("r1", "r2"):
        desk.admit(order, identity=identity("first"))
        if is_ended:
            desk.send(order)
            desk.settle(order, "u/a:1,0,0,0")
            client.set(f"{BASE}outcome:{order}", "{}")
    joined = [desk.admit(f"j{index}", identity=identity("retry"))["order"]["id"] for index in range(4)]
    assert ["r1", "r1", "r2", "r2"] == sorted(joined)
    assert joined[0] != joined[1]


def test_a_refused_attempt_is_repeated_and_joins_nothing(client: "redis.Redis") -> None:
    desk = Desk(client, NOW_S, concurrency=1)
    desk.admit("r1", identity=identity("first"))
    refused = [desk.admit(f"x{index}", identity=identity(kind)) for index, kind in enumerate(("first", "retry"))]
    assert ["rate", "rate"] == [reply["decision"] for reply in refused]
    desk.settle("r1", "u/a:1,0,0,0")
    assert "admitted" == desk.admit("r2", identity=identity("retry"))["decision"]
    assert "repeated" == desk.admit("r3", identity=identity("retry"))["decision"]


def test_an_attempt_that_was_given_up_lets_no_later_retry_buy(desk: Desk) -> None:
    desk.admit("r0", identity=identity("first"))
    desk.settle("r0")
    desk.clock.advance(60)
    desk.admit("r1", identity=identity("first"))
    assert ("repeated", "r1") == (
        (reply := desk.admit("r2", identity=identity("retry")))["decision"],
        reply["order"]["id"],
    )


def test_a_refused_request_leaves_no_trace_of_its_own(client: "redis.Redis") -> None:
    desk = Desk(client, NOW_S, concurrency=0)
    for kind in ("plain", "first", "retry", "keyed"):
        assert "rate" == desk.admit("x", identity=identity(kind))["decision"]
    assert {b"test:clock", f"{BASE}tenant".encode(), f"{BASE}keys".encode()} >= {
        name for name in client.scan_iter() if b"rate" not in name
    }


def test_orders_of_one_request_are_limited_and_expire(desk: Desk, client: "redis.Redis") -> None:
    for index in range(40):
        desk.admit(f"r{index}", identity=identity("first"))
    assert 16 == client.zcard(f"{BASE}orders:n1")
    assert 0 < client.ttl(f"{BASE}orders:n1") <= 900


def test_joined_requests_count_in_the_minute_alone(client: "redis.Redis") -> None:
    desk = Desk(client, NOW_S, requests_per_minute=2, images_per_minute=1, concurrency=1, images_per_day=1)
    found = [desk.admit(f"r{index}", identity=identity("keyed")) for index in range(3)]
    assert ["admitted", "repeated", "rate"] == [reply["decision"] for reply in found]
    assert [1, 0, 0] == [reply["rates"]["requests"]["remaining"] for reply in found]
    assert (1, 1) == (desk.used()["images_last_minute"], desk.used()["images_today"])


def test_one_order_is_joined_by_a_limited_number_of_requests(desk: Desk) -> None:
    desk.admit("r1", identity=identity("keyed"))
    found = [desk.admit(f"j{index}", identity=identity("keyed")) for index in range(34)]
    assert ["repeated"] * 32 + ["rate"] * 2 == [reply["decision"] for reply in found]
    assert "joined_requests" == found[-1]["limit"]


@pytest.mark.parametrize("limits", [{"requests_per_minute": 2}, {}])
def test_a_retry_that_may_not_join_does_not_become_an_order(client: "redis.Redis", limits: dict[str, int]) -> None:
    desk = Desk(client, NOW_S, **limits)
    desk.admit("r1", identity=identity("first"))
    found = [desk.admit(f"j{index}", identity=identity("retry"))["decision"] for index in range(40)]
    assert {"repeated", "rate"} == set(found)
