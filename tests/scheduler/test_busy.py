"""Busy is not down: what is foreseen, who is let in, and who is served at once."""

import asyncio

import pytest

from gateway.domain.accounts import AccountLimits, PoolConfig
from gateway.domain.errors import ErrorCode, KeyState
from gateway.scheduler import CallReport, NoCapacity
from tests.support.asking import connected
from tests.support.fairness import LONG_S, in_line, lanes
from tests.support.health import PERSON
from tests.support.pooling import Process, account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio

LIVES_S = 600.0
"""Of leases that outlive the minutes which a test lets pass."""
Waiting = list["asyncio.Task[object]"]


def wait(process: Process, tenant: str, count: int = 1, **changes: object) -> Waiting:
    asked = {"tenant": tenant, "patience_s": LONG_S} | changes
    return [asyncio.create_task(process.ask(**asked)) for _ in range(count)]


async def end(waiting: Waiting) -> None:
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_accounts_with_long_calls_in_all_their_lanes_are_busy_and_not_down(any_redis: str) -> None:
    """Their minutes are empty by then, and nothing but the end of a call makes room."""
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), lanes("b"), lease_s=LIVES_S) as process:
        leases = [await process.take() for _ in range(2)]
        for _ in range(3):
            await pass_time(redis, 70)
            assert (await process.refuse()).is_busy
        waiting = wait(process, "acme")
        await in_line(redis, 1)
        await process.pool.release(leases[0], CallReport(images=1))
        assert not isinstance(await asyncio.wait_for(waiting[0], 2), NoCapacity)


async def test_who_waits_for_long_calls_is_not_thrown_out(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, lanes("a"), lease_s=LIVES_S) as process:
        held = await process.take()
        waiting = wait(process, "acme")
        await in_line(redis, 1)
        await pass_time(redis, 120)
        await asyncio.sleep(2.5)
        assert not waiting[0].done()
        await process.pool.release(held, CallReport(images=1))
        assert not isinstance(await asyncio.wait_for(waiting[0], 2), NoCapacity)


async def test_a_line_that_one_tenant_has_filled_is_open_to_the_others(any_redis: str) -> None:
    """Each up to its share, and all up to twice the line's length."""
    terms = PoolConfig(max_queue_length=4, paced_percent=0)
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), terms=terms) as process:
        await process.take()
        waiting = wait(process, "flood", 4)
        await in_line(redis, 4)
        assert (await process.refuse(tenant="flood", patience_s=LONG_S)).is_busy
        waiting += wait(process, "other", 2)
        await in_line(redis, 6)
        assert (await process.refuse(tenant="other", patience_s=LONG_S)).is_busy
        for tenant in ("third", "fourth"):
            waiting += wait(process, tenant)
            await in_line(redis, len(waiting))
        assert (await process.refuse(tenant="fifth", patience_s=LONG_S)).is_busy
        await end(waiting)
        await in_line(redis, 0)


async def test_who_does_not_wait_is_served_where_those_who_wait_need_something_else(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), lanes("b")) as process:
        held = await process.take(avoided=("b/",))
        waiting = wait(process, "picky", avoided=("b/",))
        await in_line(redis, 1)
        lease = await process.take(tenant="other")
        assert "b" == lease.key.account
        assert (await process.refuse(tenant="other")).is_busy
        await in_line(redis, 1)
        await end(waiting)
        for one in (held, lease):
            await process.pool.release(one, CallReport(images=1))
        await asyncio.sleep(0.1)
        assert [] == await left_over(redis)


async def test_a_forecast_does_not_count_on_accounts_that_are_disabled(redis_url: str) -> None:
    """Ten a minute of one account, and twenty that a person took out: 15 that wait are a round and a half."""
    limits = AccountLimits(requests_per_minute=10, images_per_minute=1000, max_concurrency=1000)
    off = [account(f"off-{number}", limits=limits) for number in range(20)]
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits), *off) as process:
        for one in off:
            await process.roster.set_state("sim", one.name, None, KeyState.DISABLED, PERSON)
        for _ in range(10):
            await process.pool.release(await process.take(), CallReport(images=1))
            await pass_time(redis, 5)
        waiting = wait(process, "acme", 15)
        await in_line(redis, 15)
        refused = await process.refuse(patience_s=5)
        await end(waiting)
    assert refused.is_busy
    assert refused.wait_s == pytest.approx(11 + 5 * 5 + 61, abs=1)


async def test_a_forecast_knows_how_long_calls_take_where_lanes_are_scarce(redis_url: str) -> None:
    """Calls of 40 s in two lanes: the third that waits gets the first lane's second turn."""
    async with connected(redis_url) as redis, pooling(redis, lanes("a", 2), lease_s=LIVES_S) as process:
        first = await process.take()
        await pass_time(redis, 40)
        await process.pool.release(first, CallReport(images=1))
        leases = [await process.take() for _ in range(2)]
        waiting = wait(process, "acme", 2)
        await in_line(redis, 2)
        assert (await process.refuse(patience_s=1)).wait_s == pytest.approx(60, abs=2)
        await end(waiting)
        for lease in leases:
            await process.pool.release(lease, CallReport(images=1))


async def test_a_wait_that_ends_late_says_how_long_it_would_still_be(redis_url: str) -> None:
    """It was let in for a second's wait, of which 40 more became meanwhile."""
    limits = AccountLimits(requests_per_minute=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        await process.pool.release(await process.take(), CallReport(images=1))
        await pass_time(redis, 59)
        waiting = asyncio.create_task(process.refuse(patience_s=3))
        await in_line(redis, 1)
        await pass_time(redis, -40)
        refused = await asyncio.wait_for(waiting, 10)
    assert refused.is_busy
    assert 30 < (refused.wait_s or 0) < 42


async def test_who_waits_stays_while_the_upstream_rests_for_seconds(redis_url: str) -> None:
    """And is served when it is well again."""
    terms = PoolConfig(breaker_failures=1, breaker_open_s=30, paced_percent=0)
    async with connected(redis_url) as redis, pooling(redis, lanes("a"), terms=terms) as process:
        held = await process.take()
        waiting = wait(process, "acme")
        await in_line(redis, 1)
        await process.pool.release(held, CallReport(ErrorCode.UPSTREAM_ERROR))
        await asyncio.sleep(2.2)
        assert not waiting[0].done()
        await pass_time(redis, 30)
        assert not isinstance(await asyncio.wait_for(waiting[0], 3), NoCapacity)
