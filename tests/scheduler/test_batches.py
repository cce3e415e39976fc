"""What a batch leaves for interactive requests, how it waits, and how fast a pool makes its images."""

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import KeyState
from gateway.scheduler.status import AccountStatus, KeyStatus, PoolStatus
from tests.scheduler.clocked_pool import ClockedPool

TEN = AccountLimits(requests_per_minute=10, images_per_minute=60, max_concurrency=10)
FIVE_MINUTES_S = 300.0


def declare(clocked: ClockedPool, limits: AccountLimits = TEN, accounts: int = 1, paced: int = 0) -> ClockedPool:
    clocked.declare({f"a{number}": limits for number in range(accounts)}, paced=paced)
    return clocked


def use(pool: ClockedPool, lease_id: str, images: int = 1, priority: str = "i") -> bool:
    """Returns whether a call is given now; it ends at once."""
    given = "leased" == str(pool.lease(lease_id, priority, images, priority=priority)["decision"])
    if given:
        pool.release(lease_id)
    return given


def used(pool: ClockedPool, name: str, images: int = 1, priority: str = "b") -> int:
    """How many calls are given until one is refused."""
    return next(number for number in range(1000) if not use(pool, f"{name}{number}", images, priority))


@pytest.mark.parametrize(("requests", "accounts", "kept"), [(10, 1, 2), (10, 2, 2), (10, 5, 5), (100, 1, 2), (2, 1, 1)])
def test_a_batch_leaves_a_part_of_the_minute_after_an_interactive_request(
    clocked: ClockedPool, requests: int, accounts: int, kept: int
) -> None:
    pool = declare(clocked, AccountLimits(requests, 1000, 100), accounts)
    assert use(pool, "i")
    assert requests * accounts - kept - 1 == used(pool, "b")
    assert kept == used(pool, "i", priority="i")


def test_an_account_of_one_request_a_minute_serves_batches_too(clocked: ClockedPool) -> None:
    pool = declare(clocked, AccountLimits(1, 10, 1))
    assert use(pool, "i")
    pool.clock.advance(62)
    assert use(pool, "b", priority="b")


def test_a_batch_leaves_as_much_as_was_lately_requested_at_once(clocked: ClockedPool) -> None:
    pool = declare(clocked)
    held = [f"i{number}" for number in range(4)]
    for lease_id in held:
        pool.take(lease_id)
    for lease_id in held:
        pool.release(lease_id)
    assert 10 - 4 - 4 == used(pool, "b")


def test_a_batch_leaves_images_for_as_large_a_call_as_the_largest_of_a_minute(clocked: ClockedPool) -> None:
    pool = declare(clocked)
    assert use(pool, "i", 9)
    assert (60 - 9 - 2 * 9) // 6 == used(pool, "b", 6)
    assert use(pool, "j", 9)
    assert use(pool, "k", 9)


def test_a_batch_gets_all_when_no_interactive_request_came_for_five_minutes(clocked: ClockedPool) -> None:
    pool = declare(clocked)
    assert use(pool, "i")
    pool.clock.advance(FIVE_MINUTES_S - 1)
    assert 8 == used(pool, "b")
    pool.clock.advance(62)
    assert 10 == used(pool, "c")


def test_a_batch_leaves_a_slot_of_the_concurrency(clocked: ClockedPool) -> None:
    pool = declare(clocked, AccountLimits(1000, 1000, 4))
    assert use(pool, "i")
    waiting = [f"b{number}" for number in range(6)]
    for lease_id in waiting:
        pool.lease(lease_id, "b", patience_s=100_000, priority="b")
    for _ in range(20):
        pool.clock.advance(10)
        for lease_id in pool.given(*waiting):
            pool.claim(lease_id)
            waiting.remove(lease_id)
        pool.turn(leases=list(pool.leases))
    assert 3 == pool.account("a0")["in_flight"]
    pool.take("j")


def test_what_a_batch_must_leave_is_given_to_it_when_a_call_ends(clocked: ClockedPool) -> None:
    """Its account was not full, so nothing else says that there is more."""
    pool = declare(clocked, AccountLimits(1000, 1000, 4))
    assert use(pool, "i")
    for number in range(3):
        pool.take(f"j{number}", "i")
    pool.wait("b", "b", priority="b")
    pool.release("j0")
    assert ["b"] == pool.turn("b").get("assigned")


def test_a_batch_waits_however_long_that_is_and_an_interactive_request_does_not(clocked: ClockedPool) -> None:
    pool = declare(clocked)
    pool.spend(10)
    assert "busy" == pool.lease("i", patience_s=5)["decision"]
    found = pool.lease("b", patience_s=5, priority="b")
    assert ("wait", True) == (found["decision"], found["wait_us"] > 50e6)


def test_an_interactive_request_is_served_at_once_beside_a_batch_that_waits(clocked: ClockedPool) -> None:
    pool = declare(clocked, paced=50)
    waiting = [f"b{number}" for number in range(8)]
    for lease_id in waiting:
        pool.lease(lease_id, "b", patience_s=100_000, priority="b")
    pool.take("i")


def test_a_large_call_of_a_batch_is_not_put_off_by_small_ones(clocked: ClockedPool) -> None:
    """It waits for more images than those leave for interactive requests anyway."""
    pool = declare(clocked, AccountLimits(1000, 20, 100))
    assert use(pool, "i", 2)
    pool.spend(8, images=2)
    pool.wait("large", "x", 9, priority="b")
    waiting = [f"b{number}" for number in range(60)]
    for lease_id in waiting:
        pool.wait(lease_id, "y", priority="b")
    served = list[str]()
    for _ in range(130):
        pool.clock.advance(1)
        for lease_id in pool.given("large", *waiting):
            pool.claim(lease_id)
            pool.release(lease_id)
            served.append(lease_id)
    assert "large" in served[:12]


def test_the_snapshot_counts_what_waits_by_priority(clocked: ClockedPool) -> None:
    pool = declare(clocked)
    pool.spend(10)
    pool.wait("i")
    for number in range(3):
        pool.wait(f"b{number}", priority="b")
    shown = pool.look()
    assert (1, 3) == (shown["waiting"], shown["waiting_batch"])


def key(name: str, state: KeyState = KeyState.READY, model: str | None = None) -> KeyStatus:
    return KeyStatus(upstream="sim", account="a", name=name, fingerprint="", model=model, is_declared=True, state=state)


def account(*keys: KeyStatus, state: KeyState = KeyState.READY, requests: int = 10) -> AccountStatus:
    return AccountStatus(
        upstream="sim",
        name="a",
        limits=TEN,
        requests_per_minute_now=requests,
        max_concurrency_now=5,
        requests_used=7,
        images_used=7,
        in_flight=3,
        keys=keys or (key("k"),),
        state=state,
    )


@pytest.mark.parametrize(
    ("pool", "images", "expected"),
    [
        (PoolStatus(upstream="sim", accounts=(account(), account(requests=4))), 1, 14),
        (PoolStatus(upstream="sim", accounts=(account(),)), 9, 54),
        (PoolStatus(upstream="sim", accounts=(account(),), call_s=60), 2, 10),
        (PoolStatus(upstream="sim", accounts=(account(state=KeyState.COOLING),)), 1, 10),
        (PoolStatus(upstream="sim", accounts=(account(state=KeyState.DISABLED),)), 1, 0),
        (PoolStatus(upstream="sim", accounts=(account(),), state=KeyState.QUARANTINED), 1, 0),
        (PoolStatus(upstream="sim", accounts=(account(key("k", KeyState.QUARANTINED)),)), 1, 0),
        (PoolStatus(upstream="sim", accounts=(account(key("k", KeyState.QUARANTINED, "m")),)), 1, 0),
        (PoolStatus(upstream="sim", accounts=(account(key("k", KeyState.QUARANTINED, "other")),)), 1, 10),
        (PoolStatus(upstream="sim"), 1, 0),
    ],
)
def test_a_pool_makes_what_its_usable_accounts_make_in_a_minute(pool: PoolStatus, images: int, expected: float) -> None:
    assert expected == pool.images_per_minute("m", images)
