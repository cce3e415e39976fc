"""What an account has sent and has in flight is counted exactly: whatever comes late or twice, whatever clocks do."""

import itertools

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import WINDOW_S, ClockedPool, rest

TWENTY_IMAGES = AccountLimits(requests_per_minute=100, images_per_minute=20, max_concurrency=100)
LIMITED = rest("account_rate_limited", "account", "cooling", 15, seconds_max=60, busy=True, lowers="rate")
RENEWED_S = 16.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_grants_of_one_moment_are_claimed_in_any_order_and_none_frees_anothers_images(
    clocked: ClockedPool, order: tuple[int, ...]
) -> None:
    """By the processes that hear of them sooner and later, while others ask for what seems free."""
    clocked.declare({"a": TWENTY_IMAGES})
    clocked.spend(2, images=9)
    clocked.take("last", images=2)
    clocked.release("last")
    given = {"r0": 1, "r1": 9, "r2": 9, "r3": 1}
    for lease_id, images in given.items():
        clocked.wait(lease_id, f"tenant-{lease_id}", images)
    clocked.clock.advance(WINDOW_S)
    clocked.turn(*given)
    assert set(given) == set(clocked.turn(*given)["assigned"])
    clocked.wait("r4", "big", 9)
    clocked.wait("r5", "small", 1)
    for at in order:
        clocked.clock.advance(0.5)
        assert "leased" == clocked.claim(list(given)[at])["decision"]
        assert "assigned" not in clocked.turn("r4", "r5")
        assert 20 == clocked.account()["images_used"]


@pytest.mark.parametrize("late_s", [0.0, 0.3, 4.9, 9.0])
@pytest.mark.parametrize("unsent", ["r0", "r1", "r2"])
def test_what_was_not_sent_gives_back_its_own_images(clocked: ClockedPool, unsent: str, late_s: float) -> None:
    clocked.declare({"a": TWENTY_IMAGES})
    clocked.spend(2, images=9)
    clocked.spend(1, images=2)
    clocked.clock.advance(1)
    for number, images in enumerate((9, 2, 7)):
        clocked.wait(f"r{number}", f"t{number}", images)
    clocked.clock.advance(WINDOW_S)
    for _ in range(2):
        clocked.turn("r0")
    for number in (2, 1, 0):
        clocked.clock.advance(late_s / 3)
        clocked.claim(f"r{number}")
    clocked.release(unsent, error_code="not_sent", is_unsent=True)
    assert 18 - {"r0": 9, "r1": 2, "r2": 7}[unsent] == clocked.account()["images_used"]


def test_a_lease_outlives_an_outage_of_redis_that_is_longer_than_it_lives(clocked: ClockedPool) -> None:
    """Its process renews it first; another one's request comes before that and ends nothing."""
    clocked.declare({"a": AccountLimits(100, 100, max_concurrency=1)})
    clocked.take("held", lease_s=RENEWED_S)
    for away_s in (17.0, 90.0, 3600.0):
        clocked.turn(leases=["held"], lease_s=RENEWED_S)
        clocked.clock.advance(away_s)
        for _ in range(3):
            assert "busy" == clocked.lease("other", process="p2", lease_s=RENEWED_S)["decision"]
            clocked.clock.advance(RENEWED_S / 8)
        clocked.turn(leases=["held"], lease_s=RENEWED_S)
        for _ in range(12):
            clocked.clock.advance(1)
            assert "busy" == clocked.lease("other", process="p2", lease_s=RENEWED_S)["decision"]


def test_a_lease_of_a_dead_process_ends_soon_after_an_outage(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(100, 100, max_concurrency=1)})
    clocked.take("held", lease_s=RENEWED_S)
    clocked.clock.advance(90)
    clocked.wait("other", process="p2", lease_s=RENEWED_S)
    waited_s = 0
    while not clocked.turn("other", process="p2", lease_s=RENEWED_S).get("assigned"):
        clocked.clock.advance(1)
        waited_s += 1
    assert waited_s <= RENEWED_S


def test_a_lease_of_a_dead_process_ends_in_its_time_where_redis_was_never_away(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(100, 100, max_concurrency=1)})
    clocked.take("held", lease_s=RENEWED_S)
    for second in range(round(RENEWED_S) + 1):
        assert ("leased" if second > RENEWED_S - 1e-9 else "busy") == clocked.lease(
            f"other{second}", process="p2", lease_s=RENEWED_S
        )["decision"]
        clocked.clock.advance(1)


@pytest.mark.parametrize("back_s", [0.0, 0.5, 5.0, 60.0, 61.0, 62.0, 300.0, 86_400.0])
def test_a_clock_that_is_set_back_makes_room_wait_a_minute_at_most(clocked: ClockedPool, back_s: float) -> None:
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    clocked.spend(10)
    clocked.clock.advance(-back_s)
    found = clocked.lease("r", patience_s=120)
    assert found["decision"] in {"wait", "leased"}
    assert WINDOW_S * 1e6 >= found.get("wait_us", 0)
    if found["decision"] == "wait":
        clocked.clock.advance(WINDOW_S + 1)  # a second is no jump
        assert ["r"] == clocked.turn("r").get("assigned")


@pytest.mark.parametrize("back_s", [0.5, 1.0, 5.0, 60.0])
def test_a_clock_that_is_set_back_gives_no_minute_out_twice(clocked: ClockedPool, back_s: float) -> None:
    """What was sent within the last minute counts for a minute of this clock."""
    clocked.declare({"a": AccountLimits(10, 60, 10)})
    clocked.spend(10)
    clocked.clock.advance(-back_s)
    for second in range(round(WINDOW_S)):
        assert "busy" == clocked.lease(f"r{second}")["decision"]
        clocked.clock.advance(1)


@pytest.mark.parametrize("back_s", [0.01, 0.5, 5.0, 60.0, 300.0, 86_400.0])
@pytest.mark.parametrize("allowed", [1, 2, 10])
def test_an_account_is_never_believed_to_allow_less_than_one(clocked: ClockedPool, allowed: int, back_s: float) -> None:
    """It was lowered just before the clock was set back."""
    clocked.declare({"a": AccountLimits(allowed, 60, 10)})
    for number in range(allowed):
        clocked.take(f"f{number}", "w")
    for number in range(allowed):
        clocked.release(f"f{number}", **LIMITED)
    clocked.clock.advance(-back_s)
    assert clocked.account()["requests_per_minute_now"] >= 1
    for number in range(3):
        found = clocked.lease(f"r{number}", patience_s=120)
        assert found["decision"] in {"wait", "busy", "leased"}
    assert clocked.turn("r0", "r1", "r2")["next_us"] >= 0


@pytest.mark.parametrize("between_s", [0.0, 30.0, 3600.0])
def test_a_call_that_is_released_twice_counts_once(clocked: ClockedPool, between_s: float) -> None:
    """The answer to the first release was lost."""
    clocked.declare({"a": AccountLimits()})
    clocked.take("one", images=2)
    clocked.take("other")
    lease = clocked.leases["one"]
    said = {"is_success": True, "breaker": "well", "images": 2, "usd_micros": 70}
    for _ in range(3):
        clocked.release_again(lease, "one", **said)
        clocked.clock.advance(between_s)
    assert (2, 70) == (clocked.account()["images_today"], clocked.account()["usd_micros_today"])
    assert clocked.account()["in_flight"] <= 1


def test_a_call_whose_lease_expired_before_its_release_counts_once(clocked: ClockedPool) -> None:
    """Its process was cut off from Redis meanwhile."""
    clocked.declare({"a": AccountLimits()})
    clocked.take("late", images=2)
    for _ in range(70):
        clocked.clock.advance(1)
        clocked.turn()
    assert 0 == clocked.account()["in_flight"]
    lease, said = clocked.leases["late"], {"is_success": True, "breaker": "well", "images": 2, "usd_micros": 70}
    for _ in range(3):
        clocked.release_again(lease, "late", **said)
    assert (2, 70) == (clocked.account()["images_today"], clocked.account()["usd_micros_today"])
    assert 0 == clocked.account()["in_flight"]


def test_a_call_that_is_reported_as_late_after_a_minute_takes_no_room(clocked: ClockedPool) -> None:
    """Redis was away meanwhile, and the process repeats what it had to say."""
    clocked.declare({"a": AccountLimits(1, 9, 9)})
    clocked.take("early")
    clocked.clock.advance(2 * WINDOW_S)
    clocked.release("early", later_us=5_000_000)
    clocked.take("next")
