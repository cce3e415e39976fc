"""Who is next, when there is less than everybody wants."""

import asyncio

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.scheduler import NOT_SENT, CallReport
from tests.support.asking import connected
from tests.support.fairness import LONG_S, Order, in_line, lanes
from tests.support.pooling import account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio


async def test_500_waiting_requests_of_a_tenant_do_not_delay_the_first_of_another(any_redis: str) -> None:
    async with connected(any_redis, timeout_s=10) as redis, pooling(redis, lanes("a")) as process:
        held, order = await process.take(), Order()
        for _ in range(500):
            order.ask(process, "flood")
        await in_line(redis, 500)
        order.ask(process, "single")
        await in_line(redis, 501)
        await process.pool.release(held, CallReport(images=1))
        assert (await order.all_served()).index("single") <= 1
        assert [] == await left_over(redis)


async def test_weights_of_3_to_1_give_3_to_1(any_redis: str) -> None:
    async with (
        connected(any_redis, timeout_s=10) as redis,
        pooling(redis, lanes("a")) as one,
        pooling(redis, lanes("a")) as other,
    ):
        held, order = await one.take(tenant="starter"), Order()
        for number in range(220):
            order.ask((one, other)[number % 2], "heavy", weight=3)
            order.ask((one, other)[number % 2], "light", weight=1)
        await in_line(redis, 440)
        await one.pool.release(held, CallReport(images=1))
        served = (await order.all_served())[:200]
    assert 150 == pytest.approx(served.count("heavy"), rel=0.05)


async def test_a_tenants_requests_are_served_in_the_order_in_which_they_came_to_any_process(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as one, pooling(redis, lanes("a")) as other:
        held, order = await one.take(), Order()
        for number in range(20):
            order.ask((one, other)[number % 2], f"{number:02}", tenant="acme")
            await in_line(redis, number + 1)
        await one.pool.release(held, CallReport(images=1))
        assert [f"{number:02}" for number in range(20)] == await order.all_served()


async def test_who_left_the_line_many_times_pays_nothing_for_it(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, lanes("a")) as process:
        held, order = await process.take(tenant="starter"), Order()
        leaving = [asyncio.ensure_future(process.ask(tenant="left", patience_s=LONG_S)) for _ in range(500)]
        await in_line(redis, 500)
        for one in leaving:
            one.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await in_line(redis, 0)
        for _ in range(4):
            order.ask(process, "left")
            order.ask(process, "other")
        await in_line(redis, 8)
        await process.pool.release(held, CallReport(images=1))
        served = await order.all_served()
    assert [1] * 4 == [served[at : at + 2].count("left") for at in range(0, 8, 2)]


async def test_who_was_idle_has_saved_nothing_up(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, lanes("a")) as process:
        await process.pool.release(await process.take(tenant="idle"), CallReport(images=1))
        for _ in range(100):
            await process.pool.release(await process.take(tenant="busy"), CallReport(images=1))
        held, order = await process.take(tenant="busy"), Order()
        for _ in range(10):
            order.ask(process, "idle")
            order.ask(process, "busy")
        await in_line(redis, 20)
        await process.pool.release(held, CallReport(images=1))
        served = await order.all_served()
    assert served[:10].count("busy") >= 4


async def test_a_retry_keeps_its_place(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a")) as process:
        first, order = await process.take(), Order()
        for number in range(3):
            order.ask(process, f"later-{number}", tenant="acme")
        await in_line(redis, 3)
        order.ask(process, "again", tenant="acme", asked=first.asked)
        await in_line(redis, 4)
        await process.pool.release(first, NOT_SENT)
        assert "again" == (await order.all_served())[0]


async def test_a_request_for_many_images_is_not_starved_by_small_ones(any_redis: str) -> None:
    """Room for one image at a time comes free, ten times; small ones would take each."""
    limits = AccountLimits(1000, images_per_minute=10, max_concurrency=1000)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        for _ in range(10):
            await process.pool.release(await process.take(), CallReport(images=1))
            await pass_time(redis, 5)
        big = asyncio.ensure_future(process.take(tenant="big", images=9, patience_s=LONG_S))
        await in_line(redis, 1)
        small = [asyncio.ensure_future(process.take(tenant="small", patience_s=LONG_S)) for _ in range(20)]
        await in_line(redis, 21)
        for _ in range(12):
            await pass_time(redis, 5)
            await asyncio.sleep(1.1 if big.done() else 0.3)
        assert (await asyncio.wait_for(big, 5)).images == 9
        for one in small:
            one.cancel()
        await asyncio.gather(*small, return_exceptions=True)


async def test_who_waits_for_room_for_many_images_blocks_no_account_that_it_does_not_need(any_redis: str) -> None:
    """And who can be served at once is not made to wait for a message."""
    small = AccountLimits(1000, images_per_minute=5, max_concurrency=1000)
    large = AccountLimits(1000, images_per_minute=10, max_concurrency=1000)
    accounts = account("small", limits=small), account("large", limits=large)
    async with connected(any_redis) as redis, pooling(redis, *accounts) as process:
        await process.take(avoided=("small/",), images=5)
        big = asyncio.ensure_future(process.ask(tenant="big", images=9, patience_s=LONG_S))
        await in_line(redis, 1)
        lease = await asyncio.wait_for(process.take(tenant="other", patience_s=LONG_S), 0.5)
        assert "small" == lease.key.account
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        await in_line(redis, 0)


async def test_a_retry_that_avoids_all_that_is_free_does_not_block_its_tenants_others(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, lanes("a"), lanes("b")) as process:
        of_a, of_b = await process.take(avoided=("b/",)), await process.take(avoided=("a/",))
        retry = asyncio.ensure_future(process.take(avoided=("b/",), asked=of_a.asked, patience_s=LONG_S))
        await in_line(redis, 1)
        other = asyncio.ensure_future(process.take(patience_s=LONG_S))
        await in_line(redis, 2)
        await process.pool.release(of_b, CallReport(images=1))
        assert "b" == (await asyncio.wait_for(other, 0.8)).key.account
        assert not retry.done()
        await process.pool.release(of_a, CallReport(images=1))
        assert "a" == (await asyncio.wait_for(retry, 0.8)).key.account
