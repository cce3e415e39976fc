"""Tenants over their share are served at an even pace: all of the capacity is used, and the others wait for seconds."""

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import ClockedPool
from tests.scheduler.traffic import Sent, Tenant, Traffic, most_in_a_minute, percentile

pytestmark = pytest.mark.slow

LIMITS = AccountLimits(requests_per_minute=10, images_per_minute=60, max_concurrency=10)
TEN_MINUTES_S = 600.0
FLOOD, SECOND, BATCH = Tenant("flood"), Tenant("second"), Tenant("batch", priority="b")
SEEDS = {1: range(6), 2: range(6), 3: range(4), 5: range(3), 20: range(1)}
"""By the number of accounts."""


def traffic(clocked: ClockedPool, seed: int, accounts: int, limits: AccountLimits = LIMITS, **terms: float) -> Traffic:
    clocked.client.flushall()
    return Traffic(ClockedPool(clocked.client), seed, accounts, limits, **terms)


def images(one: Sent) -> int:
    return one.tenant.images


@pytest.mark.parametrize("accounts", SEEDS)
def test_who_asks_now_and_then_waits_for_seconds_beside_a_flood_that_gets_all_the_rest(
    clocked: ClockedPool, accounts: int
) -> None:
    """An account alone has one call in six seconds for both; that is the longest ordinary wait."""
    waits: list[float] = []
    for seed in SEEDS[accounts]:
        asking = traffic(clocked, seed, accounts)
        asking.flood(FLOOD, 300)
        asking.now_and_then(SECOND, 25, 60)
        asking.run(TEN_MINUTES_S)
        waits += asking.waits(SECOND)
        assert 0.97 * 100 * accounts <= len(asking.sent)
        assert 10 >= most_in_a_minute(asking.sent)
    waits.sort()
    assert percentile(waits, 0.95) <= (6.5 if accounts == 1 else 5)
    assert waits[-1] <= (12 if accounts == 1 else 10)


@pytest.mark.parametrize("accounts", [1, 2, 3, 5])
def test_who_asks_for_one_image_does_not_wait_for_a_flood_of_nine_images_each(
    clocked: ClockedPool, accounts: int
) -> None:
    asking = traffic(clocked, 1, accounts)
    asking.flood(Tenant("flood", images=9), 300)
    asking.now_and_then(SECOND, 25, 60)
    asking.run(TEN_MINUTES_S)
    assert percentile(asking.waits(SECOND), 0.95) <= 5
    assert 0.97 * 540 * accounts <= sum(images(one) for one in asking.sent)
    assert 60 >= most_in_a_minute(asking.sent, images)
    assert 10 >= most_in_a_minute(asking.sent)


@pytest.mark.parametrize("accounts", [1, 3, 5])
def test_who_asks_now_and_then_waits_for_seconds_beside_several_floods_that_have_gone_on(
    clocked: ClockedPool, accounts: int
) -> None:
    asking = traffic(clocked, 1, accounts)
    for number in range(3):
        asking.flood(Tenant(f"flood{number}"), 100)
    asking.run(125)
    asking.now_and_then(SECOND, 25, 60)
    asking.run(TEN_MINUTES_S)
    assert asking.waits(SECOND)[-1] <= 10
    assert 0.97 * 100 * accounts <= len(asking.sent)
    assert 10 >= most_in_a_minute(asking.sent)


@pytest.mark.parametrize("accounts", [1, 2, 3, 5, 20])
def test_a_tenant_alone_gets_half_of_a_free_minute_at_once_and_all_of_it_within_the_minute(
    clocked: ClockedPool, accounts: int
) -> None:
    asking = traffic(clocked, 1, accounts)
    asking.flood(FLOOD, 10 * accounts + 20)
    assert 5 * accounts <= len(asking.sent)
    asking.run(60)
    assert 10 * accounts == len(asking.sent)
    assert 10 == most_in_a_minute(asking.sent)


@pytest.mark.parametrize("accounts", [1, 5])
def test_without_a_pace_all_is_given_at_once(clocked: ClockedPool, accounts: int) -> None:
    asking = traffic(clocked, 1, accounts, paced=0)
    asking.flood(FLOOD, 10 * accounts + 20)
    assert 10 * accounts == len(asking.sent)


@pytest.mark.parametrize("paced", [0, 50, 90])
@pytest.mark.parametrize("accounts", [1, 2, 5])
def test_weights_of_3_to_1_give_3_to_1(clocked: ClockedPool, accounts: int, paced: int) -> None:
    asking = traffic(clocked, 1, accounts, paced=paced)
    heavy = Tenant("heavy", weight=3)
    asking.flood(Tenant("light"), 100)
    asking.flood(heavy, 100)
    asking.run(61)
    begun = len(asking.sent)
    asking.run(TEN_MINUTES_S)
    later = asking.sent[begun:]
    assert 0.75 == pytest.approx(sum(one.tenant == heavy for one in later) / len(later), abs=0.03)


@pytest.mark.parametrize("accounts", [1, 2, 5])
def test_a_batch_gets_what_is_idle_at_an_even_pace(clocked: ClockedPool, accounts: int) -> None:
    asking = traffic(clocked, 1, accounts)
    asking.flood(BATCH, 100)
    assert accounts >= len(asking.sent)
    asking.run(TEN_MINUTES_S)
    assert 0.97 * 100 * accounts <= len(asking.sent)
    assert 10 == most_in_a_minute(asking.sent)


@pytest.mark.parametrize("accounts", [1, 2, 5])
def test_a_batch_gets_nothing_while_an_interactive_request_waits(clocked: ClockedPool, accounts: int) -> None:
    asking = traffic(clocked, 1, accounts)
    asking.flood(BATCH, 100)
    asking.run(30)
    begun = len(asking.sent)
    asking.flood(FLOOD, 100)
    asking.run(TEN_MINUTES_S)
    assert {FLOOD} == {one.tenant for one in asking.sent[begun:]}
    assert 0.97 * 100 * accounts <= len(asking.sent)


@pytest.mark.parametrize(("accounts", "part"), [(1, 0.8), (2, 0.9), (5, 0.9)])
def test_who_asks_now_and_then_hardly_waits_beside_a_batch(clocked: ClockedPool, accounts: int, part: float) -> None:
    """Of each account's minute a batch leaves some for the next one; nothing of it is sent while one waits."""
    waits: list[float] = []
    for seed in SEEDS[accounts]:
        asking = traffic(clocked, seed, accounts)
        asking.flood(BATCH, 100)
        asking.now_and_then(SECOND, 25, 60)
        asking.run(TEN_MINUTES_S)
        waits += asking.waits(SECOND)
        assert part * 0.97 * 100 * accounts <= len(asking.sent)
        for one in asking.sent:
            if one.tenant == SECOND and one.waited_s:
                waited = (one.at_s - one.waited_s, one.at_s)
                assert not [it for it in asking.sent if it.tenant == BATCH and waited[0] < it.at_s < waited[1]]
    waits.sort()
    assert percentile(waits, 0.95) < 2


def test_a_batch_uses_nearly_all_of_a_large_account_and_delays_nobody(clocked: ClockedPool) -> None:
    """After some two minutes: its calls beyond its share of the concurrency begin one after another."""
    asking = traffic(clocked, 1, 1, AccountLimits(requests_per_minute=600, images_per_minute=6000, max_concurrency=100))
    asking.flood(BATCH, 50)
    asking.now_and_then(SECOND, 1, 5)
    asking.run(120)
    begun = len(asking.sent)
    asking.run(210)
    assert 0.93 * 900 <= len(asking.sent) - begun
    assert percentile(sorted(asking.waits(SECOND)), 0.95) < 0.5


@pytest.mark.parametrize("queued", [20, 90, 150])
def test_a_long_queue_is_foreseen_at_the_rate_of_the_account_not_of_the_pace_alone(
    clocked: ClockedPool, queued: int
) -> None:
    """Within the first minute what is left is spread; after it the whole rate is served."""
    clocked.declare({"a": AccountLimits(requests_per_minute=60, images_per_minute=1000, max_concurrency=100)}, paced=50)
    waiting = [f"w{at}" for at in range(30 + queued) if clocked.lease(f"w{at}", patience_s=1000)["decision"] == "wait"]
    foreseen_s = clocked.lease("next", patience_s=0)["wait_us"] / 1e6
    for lease_id in list(clocked.leases):
        clocked.release(lease_id)
    waited_s = 0.0
    while waiting:
        clocked.clock.advance(0.2)
        waited_s += 0.2
        for lease_id in clocked.given(*waiting):
            waiting.remove(lease_id)
            clocked.claim(lease_id)
            clocked.release(lease_id)
    assert waited_s - 5 <= foreseen_s <= waited_s + 20
