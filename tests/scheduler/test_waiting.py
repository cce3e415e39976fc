"""How a wait ends: by a push, by patience, by leaving, by a death; and what does not wait at all."""

import asyncio
import time
from dataclasses import replace

import pytest

from gateway.domain.accounts import AccountLimits, PoolConfig
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.scheduler import CallReport, Lease, NoCapacity
from gateway.scheduler.scripts import record
from tests.support.asking import connected
from tests.support.fairness import LONG_S, in_line, lanes
from tests.support.pooling import DEMAND, account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio


async def test_who_waits_is_woken_by_a_message_and_not_by_asking(any_redis: str) -> None:
    """Each well before the second after which it would ask."""
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as one, pooling(redis, lanes("a")) as other:
        held, slowest_s = await one.take(), 0.0
        await asyncio.sleep(0.3)
        for process in (one, other) * 4:
            waiting = asyncio.ensure_future(process.take(patience_s=LONG_S))
            await in_line(redis, 1)
            await asyncio.sleep(0.15)
            freed_s = time.monotonic()
            await one.pool.release(held, CallReport(images=1))
            held = await waiting
            slowest_s = max(slowest_s, time.monotonic() - freed_s)
    assert slowest_s < 0.5


async def test_a_slot_that_gets_free_by_time_alone_is_given_at_once(any_redis: str) -> None:
    limits = AccountLimits(requests_per_minute=1)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        await process.take()
        await pass_time(redis, 58.7)
        started_s = time.monotonic()
        await process.take(patience_s=10)
        assert 2.0 < time.monotonic() - started_s < 2.9


@pytest.mark.parametrize("counts", [(1, 4, 9, 1), (9, 4, 1, 9)])
async def test_requests_of_one_tenant_are_served_in_order_of_arrival(any_redis: str, counts: tuple[int, ...]) -> None:
    """However many images they ask for, and whatever model: each of these waits in a queue of its own."""
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as process:
        held, waits = await process.take(), list[asyncio.Future[Lease]]()
        for place, images in enumerate(counts):
            wait = asyncio.ensure_future(process.take(images=images, model=f"m{images}", patience_s=LONG_S))
            waits.append(wait)
            await in_line(redis, place + 1)
        for _ in counts:
            await process.pool.release(held, CallReport(images=1))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            assert waits[0].done()
            held = waits.pop(0).result()


async def test_an_error_of_every_key_says_nothing_of_when_there_is_room(any_redis: str) -> None:
    """The one account is avoided, and the other has capacity only in a quarter of an hour."""
    async with connected(any_redis) as redis, pooling(redis, account("a"), account("b")) as process:
        lease = await process.take(avoided=("b/",))
        await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
        refused = await process.refuse(avoided=("b/",))
    assert (None, False) == (refused.wait_s, refused.is_busy)


async def test_patience_ends_a_wait_and_the_place_is_gone(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as process:
        held = await process.take()
        started_s = time.monotonic()
        assert (await process.refuse(patience_s=0.4)).is_busy
        assert 0.35 < time.monotonic() - started_s < 2
        await process.pool.release(held, CallReport(images=1))
        assert [] == await left_over(redis)


async def test_a_client_that_leaves_gives_its_place_up(any_redis: str) -> None:
    left = asyncio.Event()

    async def leaves() -> None:
        await left.wait()

    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as process:
        held = await process.take()
        waiting = asyncio.ensure_future(process.pool.lease(replace(DEMAND, patience_s=LONG_S), leaves))
        await in_line(redis, 1)
        left.set()
        with pytest.raises(GatewayError) as caught:
            await waiting
        assert ErrorCode.CLIENT_DISCONNECTED is caught.value.error_code
        await process.pool.release(held, CallReport(images=1))
        assert [] == await left_over(redis)


async def test_what_was_given_to_who_is_gone_goes_to_the_next(any_redis: str) -> None:
    """The first is given a lease in the moment in which it is cut off."""
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as process:
        held = await process.take()
        first = asyncio.ensure_future(process.take(patience_s=LONG_S))
        await in_line(redis, 1)
        second = asyncio.ensure_future(process.take(patience_s=LONG_S))
        await in_line(redis, 2)
        await process.pool.release(held, CallReport(images=1))
        first.cancel()
        lease = await asyncio.wait_for(second, 3)
        await process.pool.release(lease, CallReport(images=1))
        await asyncio.sleep(0.1)
        assert [] == await left_over(redis)


@pytest.mark.slow
async def test_the_places_of_a_dead_process_go_and_the_others_wait_on(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, lanes("a")) as living:
        held = await living.take()
        async with pooling(redis, lanes("a")) as dead:
            lost = [asyncio.ensure_future(dead.take(patience_s=LONG_S)) for _ in range(5)]
            await in_line(redis, 5)
        waiting = asyncio.ensure_future(living.take(patience_s=LONG_S))
        await in_line(redis, 6)
        await asyncio.sleep(4)
        assert 6 == await redis.zcard(record("sim", "queue"))
        await asyncio.sleep(4)
        assert 1 == await redis.zcard(record("sim", "queue"))
        await living.pool.release(held, CallReport(images=1))
        await living.pool.release(await asyncio.wait_for(waiting, 2), CallReport(images=1))
        assert [] == await left_over(redis)
        for one in lost:
            one.cancel()
        await asyncio.gather(*lost, return_exceptions=True)


async def test_what_a_dead_process_was_given_comes_back(redis_url: str) -> None:
    """After ten seconds, and it does not count: it was not sent."""
    limits = AccountLimits(requests_per_minute=2, max_concurrency=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as living:
        held = await living.take()
        async with pooling(redis, account("a", limits=limits)) as dead:
            lost = asyncio.ensure_future(dead.take(patience_s=LONG_S))
            await in_line(redis, 1)
        await living.pool.release(held, CallReport(images=1))
        assert 1 == await redis.hlen(record("sim", "grants"))
        await living.refuse()
        await pass_time(redis, 10)
        await living.take()
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)


async def test_all_that_wait_are_served_when_redis_has_lost_its_memory(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as one, pooling(redis, lanes("a")) as other:
        await one.take()
        waiting = [asyncio.ensure_future((one, other)[number % 2].take(patience_s=60)) for number in range(20)]
        await in_line(redis, 20)
        await redis.flushall()

        async def served(call: "asyncio.Future[Lease]", number: int) -> None:
            await (one, other)[number % 2].pool.release(await call, CallReport(images=1))

        async with asyncio.timeout(20):
            await asyncio.gather(*(served(call, number) for number, call in enumerate(waiting)))
        assert [] == await left_over(redis)


async def test_the_queue_has_an_end(any_redis: str) -> None:
    terms = PoolConfig(max_queue_length=3, paced_percent=0)
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), terms=terms) as process:
        await process.take()
        waiting = [asyncio.ensure_future(process.ask(patience_s=LONG_S)) for _ in range(3)]
        await in_line(redis, 3)
        assert (await process.refuse(patience_s=LONG_S)).is_busy
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("waiting", [0, 3, 25])
async def test_who_would_wait_too_long_is_refused_at_once_and_told_when_there_is_room(
    redis_url: str, waiting: int
) -> None:
    """Ten a minute: what is foreseen is when a slot is free behind those who wait."""
    limits = AccountLimits(requests_per_minute=10, images_per_minute=1000, max_concurrency=1000)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        for _ in range(10):
            await process.pool.release(await process.take(), CallReport(images=1))
            await pass_time(redis, 5)
        ahead = [asyncio.ensure_future(process.take(patience_s=LONG_S)) for _ in range(waiting)]
        await in_line(redis, waiting)
        wait_s = (await process.refuse(patience_s=5)).wait_s or 0
        for one in ahead:
            one.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)
    assert [11 + 5 * (waiting % 10) + 61 * (waiting // 10)] == [pytest.approx(wait_s, abs=1)]


async def test_down_is_said_of_a_pool_whose_accounts_cannot_serve_and_nothing_to_who_has_used_all(
    any_redis: str,
) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a"), account("b")) as process:
        nothing = await process.refuse(avoided=("a/", "b/"), patience_s=LONG_S)
        assert (None, False) == (nothing.wait_s, nothing.is_busy)
        for avoided in ("a/", "b/"):
            await process.pool.release(
                await process.take(avoided=(avoided,)), CallReport(ErrorCode.INSUFFICIENT_BALANCE)
            )
        down = await process.refuse(patience_s=60)
        assert not down.is_busy
        assert down.wait_s == pytest.approx(900, abs=5)


async def test_who_waits_hears_when_the_breaker_opens_for_more_than_a_minute(any_redis: str) -> None:
    terms = PoolConfig(breaker_failures=1, breaker_open_s=90, paced_percent=0)
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), terms=terms) as process:
        held = await process.take()
        waiting = asyncio.ensure_future(process.ask(patience_s=LONG_S))
        await in_line(redis, 1)
        await process.pool.release(held, CallReport(ErrorCode.UPSTREAM_ERROR))
        found = await asyncio.wait_for(waiting, 3)
        assert isinstance(found, NoCapacity)
        assert not found.is_busy
        assert [] == await left_over(redis)


@pytest.mark.slow
async def test_processes_with_many_that_wait_ask_once_a_second(redis_url: str) -> None:
    """And not more when something gets free: those alone hear of it that it is given to.

    Beside that each says every two seconds which configuration it has.
    """
    async with connected(redis_url) as redis, pooling(redis, lanes("a")) as one, pooling(redis, lanes("a")) as other:
        held = await one.take()
        waiting = [asyncio.ensure_future((one, other)[number % 2].ask(patience_s=LONG_S)) for number in range(100)]
        await in_line(redis, 100)
        await asyncio.sleep(1)
        await redis.config_resetstat()
        await asyncio.sleep(3.5)
        asked = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert 4 <= asked <= 14
        await redis.config_resetstat()
        await one.pool.release(held, CallReport(images=1))
        await asyncio.sleep(0.5)
        assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] <= 7
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_process_in_which_nobody_waits_is_idle(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, lanes("a")):
        await asyncio.sleep(0.2)
        started_s = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - started_s < 0.3
