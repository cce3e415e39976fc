"""Which requests can be served, and when: healthy accounts are found among any number that rest."""

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import DENIED, SPENT, WINDOW_S, ClockedPool, rest
from tests.support.health import ACCUSERS_MAX, open_breaker

"""Tenants whose calls meet a fault before it rests for all others too."""
FEW = AccountLimits(requests_per_minute=2, images_per_minute=100, max_concurrency=10)
BUSY = rest("account_rate_limited", "account", "cooling", 600, busy=True)
KEY_BAD = rest("key_invalid", "key", "quarantined", 3600)
KEY_SPENT = rest("quota_exhausted_key_hour", "key", "cooling", 3600)


def make_rest(clocked: ClockedPool, count: int, said: dict[str, object]) -> None:
    """All accounts but "good" rest for a fault; that one has room again in a minute."""
    clocked.declare({f"bad{at:03}": FEW for at in range(count)} | {"good": FEW})
    for at in range(count + 1):
        clocked.take(f"c{at}")
        clocked.clock.advance(0.001)
    for lease_id, lease in list(clocked.leases.items()):
        clocked.release(lease_id, **({} if lease["account"] == "good" else said))
    while clocked.account("good")["requests_used"] < 2:
        clocked.take("more")
        clocked.release("more")


@pytest.mark.parametrize("count", [0, 15, 16, 17, 31, 32, 33, 40, 100])
@pytest.mark.parametrize("said", [SPENT, BUSY, KEY_BAD, KEY_SPENT, DENIED], ids=lambda said: str(said["error_code"]))
def test_a_busy_account_is_waited_for_however_many_others_rest(
    clocked: ClockedPool, said: dict[str, object], count: int
) -> None:
    make_rest(clocked, count, said | {"is_unauthorized": False})
    soon = clocked.lease("now", patience_s=5)
    assert "busy" == soon["decision"]
    assert soon["wait_us"] <= WINDOW_S * 1e6
    clocked.wait("later")
    clocked.clock.advance(WINDOW_S)
    assert ["later"] == clocked.given("later")
    assert "good" == clocked.claim("later")["account"]


@pytest.mark.parametrize("event", ["disable", "drain"])
@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_a_busy_account_is_waited_for_however_many_a_person_took_out(
    clocked: ClockedPool, event: str, count: int
) -> None:
    clocked.declare({f"bad{at:03}": FEW for at in range(count)} | {"good": FEW})
    for at in range(count):
        clocked.hold(f"bad{at:03}", event)
    clocked.spend(2)
    clocked.wait("later")
    clocked.clock.advance(WINDOW_S)
    assert ["later"] == clocked.given("later")


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_an_account_for_many_images_is_waited_for_among_small_ones(clocked: ClockedPool, count: int) -> None:
    small = AccountLimits(requests_per_minute=2, images_per_minute=8, max_concurrency=10)
    clocked.declare({f"a{at:03}": small for at in range(count)} | {"good": FEW})
    for _ in range(2):
        clocked.take("nine", images=9)
        clocked.release("nine")
    clocked.wait("later", images=9)
    clocked.clock.advance(WINDOW_S)
    assert ["later"] == clocked.given("later")


@pytest.mark.parametrize("count", [1, 16, 40])
def test_where_all_rest_it_is_said_and_until_when(clocked: ClockedPool, count: int) -> None:
    make_rest(clocked, count, SPENT)
    clocked.hold("good", "disable")
    found = clocked.lease("r", patience_s=120)
    assert ("down", pytest.approx(900, abs=1)) == (found["decision"], found["wait_us"] / 1e6)


@pytest.mark.parametrize("patience_s", [0.0, 0.001, 5.0, 30.0, 120.0])
@pytest.mark.parametrize("waiting", [0, 2, 4, 8, 12, 50])
def test_room_is_given_at_once_to_who_is_next_whatever_is_foreseen(
    clocked: ClockedPool, waiting: int, patience_s: float
) -> None:
    """Six images and four requests are left, and those who used the others wait for nine images each."""
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    for number in range(6):
        clocked.take(f"f{number}", f"big{number}", 9)
        clocked.release(f"f{number}")
    clocked.clock.advance(5)
    for number in range(waiting):
        clocked.wait(f"w{number}", f"big{number % 6}", 9, patience_s=10_000.0)
        clocked.clock.advance(0.01)
    clocked.take("one", "anna", patience_s=patience_s)


@pytest.mark.parametrize("count", [1, 10, 16, 17, 21, 100, 150])
@pytest.mark.parametrize("patience_s", [120.0, 3600.0])
def test_who_waits_for_a_model_that_no_key_has_hears_it_with_the_next_heartbeat_and_delays_no_other(
    clocked: ClockedPool, patience_s: float, count: int
) -> None:
    """Of as many tenants."""
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    for number in range(10):
        clocked.take(f"f{number}", f"w{number}")
        clocked.clock.advance(0.01)
    for number in range(count):
        found = clocked.lease(f"x{number}", f"tenant{number:03}", patience_s=patience_s, model="live")
        if found["decision"] == "busy":
            break
    waiting = [f"x{at}" for at in range(number + (found["decision"] == "wait"))]
    for at in range(10):
        clocked.release(f"f{at}", **(DENIED | {"model": "live"} if at < ACCUSERS_MAX else {}))
    down = [
        lease_id for at in range(0, len(waiting), 100) for lease_id in clocked.turn(*waiting[at : at + 100])["down"]
    ]
    assert set(waiting) == set(down)
    assert "down" == clocked.lease("z", "zz", patience_s=patience_s, model="live")["decision"]
    clocked.clock.advance(WINDOW_S)
    clocked.take("other", "zeta", model="other")
    clocked.take("third", "zeta", model="third", patience_s=30)


def test_who_waits_for_what_is_not_to_be_had_does_not_block_its_own_tenants_others(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(2, 60, 10)})
    for number in range(2):
        clocked.take(f"f{number}", f"w{number}")
    for number in range(60):
        clocked.wait(f"x{number}", "acme", model="live", patience_s=10_000)
    for number in range(3):
        clocked.wait(f"y{number}", "acme", model="m", patience_s=10_000)
    for number in range(2):
        clocked.release(f"f{number}", **(DENIED | {"model": "live"}))
    clocked.clock.advance(WINDOW_S)
    assert ["y0", "y1"] == clocked.turn("y0", "y1", "y2")["assigned"]


def test_a_request_with_patience_waits_for_the_trial_of_an_upstream(clocked: ClockedPool) -> None:
    open_breaker(clocked)
    clocked.take("trial")
    assert "down" == clocked.lease("hasty")["decision"]
    clocked.wait("patient", patience_s=30)
    clocked.wait("other", patience_s=30)
    assert "assigned" not in clocked.turn("patient", "other")
    clocked.release("trial")
    clocked.clock.advance(1)
    clocked.turn("patient", "other")
    assert "leased" == clocked.claim("patient")["decision"] == clocked.claim("other")["decision"]


def test_the_next_who_waits_tries_an_upstream_whose_trial_said_nothing(clocked: ClockedPool) -> None:
    open_breaker(clocked)
    clocked.take("trial")
    clocked.wait("one", patience_s=30)
    clocked.wait("other", patience_s=30)
    clocked.release("trial", error_code="not_sent", is_unsent=True)
    assert ["one"] == clocked.turn("one", "other")["assigned"]
    assert "leased" == clocked.claim("one")["decision"]
    assert "wait" == clocked.claim("other")["decision"]


def test_who_waits_for_a_trial_that_fails_waits_on_for_a_short_rest_and_not_for_a_long_one(
    clocked: ClockedPool,
) -> None:
    open_breaker(clocked)
    rests_s = [20, 40, 60, 60]
    for rest_s in rests_s:
        clocked.take("trial")
        clocked.wait("patient", patience_s=30)
        clocked.release("trial", error_code="upstream_error", breaker="ill")
        assert rest_s == pytest.approx(clocked.look()["until_s"] - clocked.clock.now_s, abs=1)
        found = clocked.turn("patient")
        assert ({"down": ["patient"]} if rest_s > 30 else {}) == {
            k: v for k, v in found.items() if k in {"down", "assigned"}
        }
        clocked.leave("patient")
        clocked.clock.advance(rest_s + 0.1)
