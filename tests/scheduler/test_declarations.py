"""Several configurations at once: as in a rolling restart, all of them count that a living process has."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.domain.accounts import Account, AccountLimits, Pool
from gateway.domain.errors import ErrorCode, KeyState
from gateway.observability.metrics import Metrics
from gateway.redis import Client, execute
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.scripts import Scripts, record
from tests.support.asking import connected
from tests.support.health import fail, ill, look
from tests.support.pooling import Process, account, pooling

pytestmark = pytest.mark.anyio

SMALL = AccountLimits(requests_per_minute=3)
LARGE = AccountLimits(requests_per_minute=5)
OLD = account("a", limits=SMALL), account("b")
NEW = account("a", limits=LARGE), account("c")
SOON_S = 8.0
"""Two seconds, on a slow machine; much less than a configuration counts without a sign of life."""


async def names(process: Process) -> set[str]:
    return {one.name for one in (await look(process)).accounts}


async def until_there_are(process: Process, *expected: str) -> None:
    async with asyncio.timeout(SOON_S):
        while set(expected) != await names(process):  # noqa: ASYNC110 - Redis tells no event
            await asyncio.sleep(0.05)


async def declare_and_die(redis: Client, *accounts: Account) -> None:
    """A process says what it has, and gives no sign of life any more."""
    roster = AccountRegistry(
        redis, Scripts(redis, Metrics(), time.time), None, time.time, process="dead", audit_keep_s=1000
    )
    await roster.declare([Pool("sim", accounts)])


async def end_of_life(redis: Client, process: str) -> None:
    """Its last sign was a while ago."""
    holders = record("sim", "holders")
    for holder in await execute(redis, redis.zrange(holders, 0, -1), list[str]):
        if holder.endswith(f"|{process}"):
            await execute(redis, redis.zadd(holders, {holder: 1}), int)


@asynccontextmanager
async def both(redis: Client) -> AsyncIterator[tuple[Process, Process]]:
    """A process of the old configuration, and one of the new."""
    async with pooling(redis, *OLD) as old, pooling(redis, *NEW) as new:
        yield old, new


async def test_two_configurations_are_one_pool_and_both_processes_serve_what_they_know(any_redis: str) -> None:
    async with connected(any_redis) as redis, both(redis) as (old, new):
        assert {"a", "b", "c"} == await names(old) == await names(new)
        assert {"a-1", "b-1"} == {(await old.take()).key.name for _ in range(4)}
        assert {"c-1"} == {(await new.take(avoided=("a/",))).key.name for _ in range(3)}


async def test_the_newer_limits_of_an_account_count_whoever_was_there_last(redis_url: str) -> None:
    """Also after both have given signs of life."""
    async with connected(redis_url) as redis, both(redis) as (old, _):
        for pause_s in (0.0, 2.5):
            await asyncio.sleep(pause_s)
            assert {"a": 5} == {
                one.name: one.limits.requests_per_minute for one in (await look(old)).accounts if one.name == "a"
            }


async def test_what_only_an_ended_process_had_goes_at_the_next_look_of_another(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, *NEW) as new:
        async with pooling(redis, *OLD):
            await until_there_are(new, "a", "b", "c")
        await until_there_are(new, "a", "c")
        await new.refuse(avoided=("a/", "c/"))


async def test_what_only_a_dead_process_had_goes_with_its_last_sign_of_life(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, *NEW) as new:
        await declare_and_die(redis, *OLD)
        await asyncio.sleep(2.5)
        assert {"a", "b", "c"} == await names(new)
        await end_of_life(redis, "dead")
        await until_there_are(new, "a", "c")


async def test_a_configuration_stays_as_long_as_one_of_its_processes_lives(redis_url: str) -> None:
    async with connected(redis_url) as redis, both(redis) as (old, new):
        async with pooling(redis, *OLD):
            pass
        await asyncio.sleep(2.5)
        assert {"a", "b", "c"} == await names(new) == await names(old)


async def test_a_reload_replaces_what_the_process_had(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, *OLD) as process:
        await process.roster.declare([Pool("sim", NEW)])
        assert {"a", "c"} == await names(process)


async def test_a_process_that_was_away_for_long_is_back_with_what_it_has(redis_url: str) -> None:
    """It was stopped, and the others took it for dead."""
    async with connected(redis_url) as redis, both(redis) as (old, new):
        for holder in await execute(redis, redis.zrange(record("sim", "holders"), 0, -1), list[str]):
            await execute(redis, redis.zadd(record("sim", "holders"), {holder: 1}), int)
        await new.roster.restore("sim")
        assert {"a", "c"} == await names(new)
        await until_there_are(old, "a", "b", "c")


async def test_a_restart_keeps_the_health_of_what_stays(redis_url: str) -> None:
    """Alone, so that nobody has the accounts for a moment, and beside another."""
    async with connected(redis_url) as redis:
        async with pooling(redis, *OLD) as before:
            await fail(before, ErrorCode.KEY_INVALID, "a/")
            await fail(before, ErrorCode.ACCOUNT_RATE_LIMITED, "b/")
        async with pooling(redis, *OLD) as after:
            expected = {"a": KeyState.COOLING, "b/b-1": KeyState.QUARANTINED}
            assert expected == await ill(after)
            async with pooling(redis, *OLD):
                pass
            await asyncio.sleep(2.5)
            assert expected == await ill(after)
