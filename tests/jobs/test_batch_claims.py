"""Claims of lines on a real Redis: those of a dead process are taken over, and those of a living one are not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from gateway.metering.reservations import PARTS, redis_keys
from tests.support.clocked import Clock, clocked_script

CLAIM_MS: Final = 6000
BATCH, LINES, WAITING = redis_keys("ig3", "acme", "batch:b1", "batch_lines", "batch:b1:waiting")


@dataclass(frozen=True)
class Claims:
    """A batch of one line."""

    client: Any
    clock: Clock

    def claim(self) -> list[list[object]]:
        script = clocked_script(self.client, "jobs/claim_lines", PARTS["admit"])
        return list(json.loads(script(keys=[BATCH, LINES, WAITING], args=["b1", CLAIM_MS, 8, 8])).get("lines", []))

    def renew(self) -> None:
        clocked_script(self.client, "jobs/renew_claims")(keys=[LINES], args=[CLAIM_MS, "b1 1"])

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
