"""What a lease costs at the server, with few accounts and with a thousand."""

from statistics import mean, median

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.redis import Client
from gateway.scheduler import CallReport
from tests.support.asking import connected
from tests.support.pooling import MINUTE_S, Process, account, pass_time, pooling

pytestmark = pytest.mark.anyio

LIMITS = AccountLimits(requests_per_minute=10, images_per_minute=1000, max_concurrency=10)
SCRIPTS = ("evalsha", "eval")


async def cost(redis: Client, process: Process, times: int) -> tuple[float, float, float]:
    """Round trips of a typical lease, and the calls inside of its script, typically and on average.

    A heartbeat may come between, and a lease that begins a minute calls a little more.
    """
    trips, calls = [], []
    for _ in range(times):
        await redis.config_resetstat()
        lease = await process.take()
        stats = await redis.info("commandstats")
        done = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}
        trips.append(sum(done.get(name, 0) for name in SCRIPTS))
        calls.append(
            sum(
                count for name, count in done.items() if name not in SCRIPTS and not name.startswith(("config", "info"))
            )
        )
        await process.pool.release(lease, CallReport(images=1))
    return median(trips), median(calls), mean(calls)


async def test_a_lease_is_one_round_trip_and_costs_the_same_with_1000_accounts(redis_url: str) -> None:
    costs = []
    for count in (3, 1000):
        async with connected(redis_url, timeout_s=10) as redis:
            await redis.flushall()
            async with pooling(redis, *(account(f"a{at}", limits=LIMITS) for at in range(count))) as process:
                await process.pool.release(await process.take(), CallReport(images=1))
                costs.append(await cost(redis, process, 20))
    few, many = costs
    assert (1, 1) == (few[0], many[0])
    assert many[1] <= few[1] + 2
    assert many[2] <= few[2] + 5


async def test_a_lease_costs_little_when_1000_accounts_are_due_at_once(redis_url: str) -> None:
    """All were used up a minute ago: a lease looks after some of them, and not after all."""
    limits = AccountLimits(requests_per_minute=1, images_per_minute=1000)
    async with (
        connected(redis_url, timeout_s=10) as redis,
        pooling(redis, *(account(f"a{at}", limits=limits) for at in range(1000))) as process,
    ):
        leases = [await process.take() for _ in range(1000)]
        await process.refuse()
        for lease in leases:
            await process.pool.release(lease, CallReport(images=1))
        await pass_time(redis, MINUTE_S)
        trips, _, calls = await cost(redis, process, 20)
        assert 1 == trips
        assert calls < 400
        assert 980 == len([await process.take() for _ in range(980)])
        await process.refuse()


async def test_whether_there_is_room_costs_the_same_with_1000_accounts(redis_url: str) -> None:
    costs = []
    for count in (3, 1000):
        async with connected(redis_url, timeout_s=10) as redis:
            await redis.flushall()
            async with pooling(redis, *(account(f"a{at}", limits=LIMITS) for at in range(count))) as process:
                assert await process.pool.has_capacity()
                costs.append(min([await cost_of_capacity(redis, process) for _ in range(5)]))
    assert costs[0] == costs[1]


async def cost_of_capacity(redis: Client, process: Process) -> int:
    """The calls of a check for room; more if a heartbeat comes between."""
    await redis.config_resetstat()
    assert await process.pool.has_capacity()
    stats = await redis.info("commandstats")
    return sum(entry["calls"] for name, entry in stats.items() if "config" not in name)


async def test_a_pool_that_is_used_up_has_no_room(redis_url: str) -> None:
    limits = AccountLimits(requests_per_minute=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        assert await process.pool.has_capacity()
        await process.pool.release(await process.take(), CallReport(images=1))
        assert not await process.pool.has_capacity()


async def test_an_account_with_a_high_limit_keeps_a_short_record(redis_url: str) -> None:
    limits = AccountLimits(100_000, 1_000_000, 10_000)
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, account("a", limits=limits)) as process:
        for _ in range(1000):
            await process.pool.release(await process.take(), CallReport(images=1))
        assert [1000] == [one.requests_used for one in (await process.pool.snapshot())[0].accounts]
        assert (await redis.memory_usage("ig3:{pool:sim}:loads") or 0) < 5000
