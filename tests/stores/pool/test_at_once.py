"""A lease that is asked for beside an admission: one that stands free, or none."""

import asyncio
from dataclasses import replace

import pytest

from gateway.domain.keys import AccountLimits
from gateway.stores.pool import Lease, Report
from tests.support.asking import connected
from tests.support.pooling import DEMAND, account, left_over, pooling

pytestmark = pytest.mark.anyio

ONE = AccountLimits(requests_per_minute=100, images_per_minute=100, max_concurrency=1)


async def test_what_stands_free_is_given(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=ONE)) as process:
        lease = await process.pool.lease_at_once(DEMAND)
        assert lease is not None
        assert ("a", "a-1") == (lease.key.account, lease.key.name)
        await process.refuse()
        await process.pool.release(lease, Report(images=1))
        assert [] == await left_over(redis)


async def test_where_nothing_stands_free_it_takes_no_place_in_the_queue(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=ONE)) as process:
        lease = await process.take()
        assert await process.pool.lease_at_once(DEMAND) is None
        assert 0 == (await process.pool.look())[0].waiting
        await process.pool.release(lease, Report(images=1))
        assert [] == await left_over(redis)


async def test_it_does_not_overtake_who_waits_for_something_else(any_redis: str) -> None:
    """An account is free that the waiting request avoids: whoever waits is asked first."""
    accounts = (account("a", limits=ONE), account("b", limits=ONE))
    async with connected(any_redis) as redis, pooling(redis, *accounts) as process:
        lease = await process.take(avoided=("b/",))
        waiting = asyncio.create_task(process.ask(patience_s=30.0, avoided=("b/",)))
        while (await process.pool.look())[0].waiting == 0:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
        assert await process.pool.lease_at_once(DEMAND) is None
        await process.pool.release(lease, Report(images=1))
        given = await asyncio.wait_for(waiting, 30)
        assert isinstance(given, Lease)
        await process.pool.release(given, Report(images=1))
        assert await process.pool.lease_at_once(DEMAND) is not None


async def test_one_that_is_given_up_gives_its_account_the_room_back(any_redis: str) -> None:
    limits = replace(ONE, requests_per_minute=1)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        lease = await process.pool.lease_at_once(DEMAND)
        assert lease is not None
        process.pool.abandon(lease)
        async with asyncio.timeout(30):
            while await process.pool.lease_at_once(DEMAND) is None:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
