"""Claims of lines on a real Redis: those of a dead process are taken over, and those of a living one are not.

A process that hung for longer than its claim buys nothing with it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from gateway.metering.reservations import PARTS, redis_keys
from tests.support.clocked import Clock, clocked_script

CLAIM_MS: Final = 6000
NAMES: Final = ("batch:b1", "batch_lines", "batch:b1:waiting", "batch:b1:ended", "batch:b1:output", "batch:b1:tries")
BATCH, LINES, WAITING, ENDED, OUTPUT, TRIES = redis_keys("ig3", "acme", *NAMES)


@dataclass(frozen=True)
class Claims:
    """A batch of one line."""

    client: Any
    clock: Clock

    def claim(self, token: str = "t1") -> list[list[object]]:
        script = clocked_script(self.client, "jobs/claim_lines", PARTS["admit"])
        args = ["b1", CLAIM_MS, 8, 8, token]
        return list(json.loads(script(keys=[BATCH, LINES, WAITING], args=args)).get("lines", []))

    def renew(self, token: str = "t1") -> None:
        clocked_script(self.client, "jobs/renew_claims")(keys=[LINES], args=[CLAIM_MS, f"b1 1 {token}"])

    def end(self, result: str, token: str = "t1", failures_max: int = 0, pause_ms: int = 0, line: int = 1) -> int:
        script, rest = clocked_script(self.client, "jobs/end_line"), 0 if result in {"waiting", "doubtful"} else "{}"
        args = [f"b1 {line} {token}", line, result, rest, failures_max, pause_ms, "storage"]
        return int(script(keys=[BATCH, LINES, WAITING, ENDED, OUTPUT, TRIES], args=args))

    def admit(self, token: str = "t1") -> str:
        """Returns the decision on an order for the line."""
        names = ("tenant", "keys", f"reservation:{token}", "open", "key::open", "rate", "key::rate")
        keys = redis_keys("ig3", "acme", *names)
        self.client.hset(keys[0], "created_at", 1)
        identity = {"kind": "line", "name": "b1:1", "fingerprint": "b1:1", "channel": "c", "keyed_ms": 9999}
        line = {"batch_id": "b1", "custom_id": "a", "claim": f"b1 1 {token}"}
        asked: list[Any] = [token, "", "req_1", "image-01", 1, "0:3500", 60_000, 0, 1000, 1000, ""]
        script = clocked_script(self.client, "metering/admit", PARTS["admit"])
        reply = json.loads(script(keys=keys, args=[*asked, json.dumps(identity), json.dumps(line)]))
        return str(reply["decision"])

    def field(self, name: str) -> int:
        return int(self.client.hget(BATCH, name) or 0)

    def settle(self, outcome: str) -> None:
        """Gives the line an order that was settled now."""
        idempotency, reservation = redis_keys("ig3", "acme", "idempotency:b1:1", "reservation:r1")
        self.client.hset(idempotency, mapping={"fingerprint": "b1:1", "order": "r1"})
        settled = {"model": "image-01", "settled": "full", "outcome": outcome}
        self.client.hset(reservation, mapping=settled | {"settled_ms": round(self.clock.now_s * 1000)})


@pytest.fixture
def claims(redis_url: str) -> Iterator[Claims]:
    with redis.Redis.from_url(redis_url) as client:
        clock = Clock(client)
        fields: dict[str, Any] = {
            "status": "in_progress",
            "total": 1,
            "next": 0,
            "expires_at": round(clock.now_s) + 9999,
        }
        client.hset(BATCH, mapping=fields)
        found = Claims(client, clock)
        assert [[1, ""]] == found.claim()
        yield found


@pytest.mark.parametrize("outcome", ["delivered", "unconfirmed"])
def test_a_line_of_a_living_process_is_its_own_after_an_outage_and_after_a_step_of_the_clock(
    claims: Claims, outcome: str
) -> None:
    """It settled the line, and has not recorded its end: the images are being stored, or Redis was unavailable."""
    claims.settle(outcome)
    for seconds in (90, 15, 90):
        claims.clock.advance(seconds)
        assert [] == claims.claim()
        claims.clock.advance(CLAIM_MS / 4000)
        assert [] == claims.claim()
        claims.renew()
        claims.clock.advance(CLAIM_MS / 1000 - 0.1)
        assert [] == claims.claim()


@pytest.mark.parametrize(("outcome", "state"), [("delivered", "gone"), ("unconfirmed", "unknown")])
def test_a_line_of_a_dead_process_ends_with_what_its_order_says(claims: Claims, outcome: str, state: str) -> None:
    claims.settle(outcome)
    claims.clock.advance(CLAIM_MS / 1000 + 60)
    assert [] == claims.claim()
    claims.clock.advance(CLAIM_MS / 2000 + 0.1)
    assert [[1, state]] == claims.claim()


@pytest.mark.parametrize("outcome", ["refused", "not_sent"])
def test_a_line_of_a_dead_process_that_cost_nothing_runs_at_once(claims: Claims, outcome: str) -> None:
    claims.settle(outcome)
    claims.clock.advance(CLAIM_MS / 1000 + 0.1)
    assert [[1, ""]] == claims.claim()


def test_a_process_that_hung_buys_nothing_after_another_has_claimed_the_line(claims: Claims) -> None:
    claims.clock.advance(CLAIM_MS / 1000 + 0.1)
    assert [[1, ""]] == claims.claim("t2")
    assert "unclaimed" == claims.admit("t1")
    assert "admitted" == claims.admit("t2")


def test_a_process_that_hung_buys_nothing_after_another_has_ended_the_line(claims: Claims) -> None:
    claims.clock.advance(CLAIM_MS / 1000 + 0.1)
    claims.claim("t2")
    assert "admitted" == claims.admit("t2")
    assert 1 == claims.end("completed", "t2")
    assert ("unclaimed", "unclaimed") == (claims.admit("t1"), claims.admit("t3"))


@pytest.mark.parametrize("status", ["cancelling", "cancelled", "finalizing", "completed", "expired"])
def test_a_line_is_bought_while_its_batch_runs_only(claims: Claims, status: str) -> None:
    claims.client.hset(BATCH, "status", status)
    assert "unclaimed" == claims.admit()


def test_a_line_is_not_bought_after_its_window_or_without_its_batch(claims: Claims) -> None:
    claims.clock.advance(9999)
    claims.renew()
    assert "unclaimed" == claims.admit()
    claims.client.delete(BATCH)
    assert "unclaimed" == claims.admit()


def test_a_line_that_has_ended_is_not_bought_with_its_claim(claims: Claims) -> None:
    claims.end("stored")
    assert "unclaimed" == claims.admit()


def test_an_admission_that_is_repeated_after_a_lost_reply_stands(claims: Claims) -> None:
    assert "admitted" == claims.admit()
    claims.client.hset(BATCH, "status", "cancelling")
    assert "admitted" == claims.admit()


@pytest.mark.parametrize("result", ["waiting", "doubtful", "failed"])
def test_a_process_that_hung_does_not_change_the_line_of_another(claims: Claims, result: str) -> None:
    claims.clock.advance(CLAIM_MS / 1000 + 0.1)
    claims.claim("t2")
    assert 0 == claims.end(result, "t1", pause_ms=1000)
    claims.renew("t1")
    assert ([b"b1 1 t2"], []) == (claims.client.zrange(LINES, 0, -1), claims.client.zrange(WAITING, 0, -1))
    assert (0, 0, 0) == (claims.field("failed"), claims.field("paused_until_ms"), claims.field("unstored"))
    assert "admitted" == claims.admit("t2")


def test_what_a_process_that_hung_has_bought_completes_the_line(claims: Claims) -> None:
    assert "admitted" == claims.admit("t1")
    claims.settle("unconfirmed")
    claims.clock.advance(CLAIM_MS / 1000 + 60)
    claims.claim("t2")
    claims.clock.advance(CLAIM_MS / 2000 + 0.1)
    assert [[1, "unknown"]] == claims.claim("t3")
    assert (1, 0) == (claims.end("stored", "t1"), claims.end("failed", "t3"))
    assert (1, 0) == (claims.field("completed"), claims.field("failed"))


def test_a_line_at_which_the_program_fails_ends(claims: Claims) -> None:
    for number in range(1, 3):
        assert 1 == claims.end("doubtful", f"t{number}", failures_max=3)
        claims.clock.advance(0.1)
        assert [[1, ""]] == claims.claim(f"t{number + 1}")
    assert (2, 1) == (claims.end("doubtful", "t3", failures_max=3), claims.end("failed", "t3"))
    assert (1, 0) == (claims.field("failed"), claims.client.zcard(LINES))


def test_lost_images_pause_the_batch_ever_longer_and_one_line_at_a_time_tries(claims: Claims) -> None:
    claims.client.hset(BATCH, "total", 9)
    assert [[2, ""], [3, ""]] == claims.claim()[:2]
    claims.end("failed", pause_ms=60_000)
    claims.end("failed", pause_ms=60_000, line=2)
    for number in range(3, 9):
        claims.end("waiting", line=number)
    lines, pauses_s = list[int](), list[float]()
    for _ in range(7):
        pauses_s.append(claims.field("paused_until_ms") / 1000 - claims.clock.now_s)
        assert [] == claims.claim()
        claims.clock.advance(pauses_s[-1] + 0.1)
        [[tried, _]] = claims.claim()
        assert isinstance(tried, int)
        assert [] == claims.claim()
        lines.append(tried)
        claims.end("failed", pause_ms=60_000, line=tried)
    assert [60, 120, 240, 480, 960, 1800, 1800] == [round(pause_s) for pause_s in pauses_s]
    assert [3, 4, 5, 6, 7, 8, 9] == sorted(lines)


def test_all_lines_run_again_after_one_was_stored(claims: Claims) -> None:
    claims.client.hset(BATCH, mapping={"total": 9, "unstored": 3})
    claims.end("stored")
    assert 7 == len(claims.claim())
