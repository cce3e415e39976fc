"""What a trial, a reserved account and the end of one of several rests mean for the requests that wait."""

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import DENIED, WINDOW_S, ClockedPool, described, rest
from tests.support.health import open_breaker

LIMIT_REACHED = rest("key_limit_reached", "key", "quarantined", 900)
HOUR_SPENT = rest("quota_exhausted_key_hour", "key", "cooling", 3600)


@pytest.mark.parametrize("said", [LIMIT_REACHED, DENIED | {"seconds": 900}], ids=lambda said: str(said["error_code"]))
def test_a_key_may_be_tried_when_its_rest_is_over_however_long_another_rests(
    clocked: ClockedPool, said: dict[str, object]
) -> None:
    """A cooldown that ends later hides a quarantine that ends sooner."""
    clocked.declare_as("p1", "d", {"a": described(AccountLimits(100, 100, 10), "k1", "k2")})
    for key, other, error_code in (("k1", "k2", said), ("k2", "k1", HOUR_SPENT)):
        clocked.take(key, avoided=[f"a/{other}"])
        clocked.release(key, **error_code)
    clocked.clock.advance(WINDOW_S + 1)
    clocked.turn()
    clocked.clock.advance(900)
    clocked.take("trial", patience_s=30)


def test_those_who_waited_for_a_trial_are_served_by_its_success(clocked: ClockedPool) -> None:
    open_breaker(clocked)
    clocked.take("trial")
    clocked.wait("patient", patience_s=30)
    clocked.release("trial")
    assert "leased" == clocked.claim("patient")["decision"]


@pytest.mark.parametrize(("waiting", "patience_s"), [(2, 0), (4, 0), (4, 30), (8, 30), (12, 30), (12, 120)])
def test_a_small_request_is_served_where_that_delays_no_large_one(
    clocked: ClockedPool, waiting: int, patience_s: float
) -> None:
    """Tenants with nothing served wait for nine images; six are left, and nine more come free 55 s later."""
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    clocked.spend(6, images=9)
    clocked.clock.advance(5)
    for number in range(waiting):
        clocked.wait(f"big{number}", f"big{number}", 9, patience_s=10_000.0)
    clocked.take("one", "anna", patience_s=patience_s)


def test_a_refusal_names_no_wait_that_is_over(clocked: ClockedPool) -> None:
    """Busy for 0 s: the client is back at once."""
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    clocked.spend(6, images=9)
    for number in range(2):
        clocked.wait(f"big{number}", f"big{number}", 9, patience_s=10_000.0)
    found = clocked.lease("one", "anna")
    assert "leased" == found["decision"] or found["wait_us"] > 0


def test_a_small_request_waits_where_it_would_delay_a_large_one_beyond_all_that_counts_now(
    clocked: ClockedPool,
) -> None:
    """Five of six images are wanted, and three leave the minute first; with two more they would leave it too late."""
    clocked.declare({"a": AccountLimits(10, 6, 10)})
    clocked.spend(1, images=3)
    clocked.clock.advance(5)
    clocked.wait("large", "acme", 5, patience_s=10_000.0)
    clocked.clock.advance(0.001)
    clocked.wait("small", "anna", 2, patience_s=10_000.0)
    clocked.clock.advance(WINDOW_S - 5)
    assert "large" in clocked.turn("large", "small")["assigned"]
