"""Batch requests get what no interactive request waits for."""

import asyncio

import pytest

from gateway.domain.accounts import PoolConfig
from gateway.scheduler import CallReport, Priority
from tests.support.asking import connected
from tests.support.fairness import LONG_S, Order, in_line, lanes
from tests.support.pooling import account, left_over, pooling

pytestmark = pytest.mark.anyio

BATCH = Priority.BATCH


async def test_a_batch_request_is_given_what_is_idle(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a", 3)) as process:
        for _ in range(3):
            await process.take(priority=BATCH)
        assert (await process.refuse(priority=BATCH)).is_busy


async def test_interactive_requests_are_served_before_batches_that_came_first(any_redis: str) -> None:
    """Also those of the same tenant, of a lighter one, and through another process."""
    async with (
        connected(any_redis) as redis,
        pooling(redis, lanes("a")) as one,
        pooling(redis, lanes("a")) as other,
    ):
        held, order = await one.take(), Order()
        for number in range(6):
            order.ask((one, other)[number % 2], "batch", weight=100, priority=BATCH)
        await in_line(redis, 6)
        for number in range(3):
            order.ask((one, other)[number % 2], "batch-too", tenant="batch")
            order.ask((one, other)[number % 2], "light")
        await in_line(redis, 12)
        await one.pool.release(held, CallReport(images=1))
        served = await order.all_served()
        assert {"batch-too", "light"} == set(served[:6])
        assert ["batch"] * 6 == served[6:]
        assert [] == await left_over(redis)


async def test_a_batch_is_served_where_the_interactive_ones_wait_for_something_else(any_redis: str) -> None:
    """Of what these cannot use it leaves one slot, as long as they come."""
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), lanes("b", 2)) as process:
        of_a, of_b = await process.take(avoided=("b/",)), await process.take(avoided=("a/",))
        picky = asyncio.create_task(process.take(tenant="picky", avoided=("b/",), patience_s=LONG_S))
        await in_line(redis, 1)
        batch = asyncio.create_task(process.take(tenant="batch", priority=BATCH, patience_s=LONG_S))
        await in_line(redis, 2)
        await process.pool.release(of_b, CallReport(images=1))
        assert "b" == (await asyncio.wait_for(batch, 5)).key.account
        assert not picky.done()
        await process.pool.release(of_a, CallReport(images=1))
        assert "a" == (await asyncio.wait_for(picky, 5)).key.account


async def test_a_batch_that_fills_the_queue_keeps_no_interactive_request_out(any_redis: str) -> None:
    terms = PoolConfig(max_queue_length=3, paced_percent=0)
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), terms=terms) as process:
        await process.take()
        waiting = [asyncio.create_task(process.ask(priority=BATCH, patience_s=LONG_S)) for _ in range(3)]
        await in_line(redis, 3)
        assert (await process.refuse(priority=BATCH, patience_s=LONG_S)).is_busy
        waiting += [asyncio.create_task(process.ask(patience_s=LONG_S)) for _ in range(3)]
        await in_line(redis, 6)
        assert (await process.refuse(patience_s=LONG_S)).is_busy
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await in_line(redis, 0)


async def test_batches_share_by_weight_among_themselves(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, lanes("a")) as process:
        held, order = await process.take(tenant="starter"), Order()
        for _ in range(60):
            order.ask(process, "heavy", weight=3, priority=BATCH)
            order.ask(process, "light", weight=1, priority=BATCH)
        await in_line(redis, 120)
        await process.pool.release(held, CallReport(images=1))
        assert 30 == pytest.approx((await order.all_served())[:40].count("heavy"), abs=2)


async def test_what_is_asked_at_once_for_a_batch_is_given_where_none_waits(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a")) as process:
        lease = await process.take(priority=BATCH)
        await process.pool.release(lease, CallReport(images=1))
        assert (await process.take(priority=BATCH, patience_s=LONG_S, asked=lease.asked)).asked == lease.asked
