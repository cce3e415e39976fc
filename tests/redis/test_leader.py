import asyncio

import pytest

from gateway.redis import KEY_CHECK_LEADER, PREFIX, Client, LeaderLock, connect
from tests.support.admissions import connected

pytestmark = pytest.mark.anyio


def turn(redis: Client, own_id: str, every_s: float = 60.0) -> LeaderLock:
    return LeaderLock(redis, KEY_CHECK_LEADER, own_id, every_s)


async def test_of_many_processes_one_has_the_turn(each_redis: str) -> None:
    async with connected(each_redis) as redis, connected(each_redis) as other:
        turns = [turn(client, f"{at}-{number}") for at, client in enumerate((redis, other)) for number in range(20)]
        taken = await asyncio.gather(*(one.acquire() for one in turns))
        kept = await asyncio.gather(*(one.renew() for one in turns))
    assert 1 == sum(taken)
    assert taken == kept


async def test_nobody_has_it_again_before_its_time(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        assert await turn(redis, "me").acquire()
        assert not await turn(redis, "me").acquire()
        assert not await turn(redis, "you").acquire()


async def test_the_turn_of_a_dead_process_passes_to_another(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        assert await turn(redis, "dead", 0.05).acquire()
        await asyncio.sleep(0.2)
        assert await turn(redis, "alive").acquire()
        assert not await turn(redis, "dead").renew()


async def test_who_keeps_it_has_it_for_longer(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        assert await turn(redis, "me", 60).acquire()
        assert await turn(redis, "me", 3600).renew()
        assert 60_000 < await redis.pttl(f"{PREFIX}:{KEY_CHECK_LEADER}")


async def test_gateways_with_different_key_prefixes_have_a_leader_each(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        other = connect(each_redis, 5.0, prefix="team-b")
        try:
            assert [True, True] == [await turn(redis, "me").acquire(), await turn(other, "you").acquire()]
            assert [True, True] == [await turn(redis, "me").renew(), await turn(other, "you").renew()]
        finally:
            await other.aclose()
