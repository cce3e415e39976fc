"""The status of a pool, which Redis replies in pages."""

from typing import Any

import msgspec
import pytest

from gateway.domain.accounts import AccountLimits
from gateway.scheduler.scripts import Reply, Scripts
from tests.scheduler.clocked_pool import ClockedPool
from tests.support.asking import connected
from tests.support.pooling import account, pooling

pytestmark = pytest.mark.anyio

LIMITS = AccountLimits(requests_per_minute=10, images_per_minute=1000, max_concurrency=4)


async def test_free_capacity_is_the_sum_over_the_accounts_of_all_pages(redis_url: str) -> None:
    accounts = [account(f"a{number}", limits=LIMITS) for number in range(600)]  # Redis pages hashes that are large
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, *accounts) as process:
        await process.take()
        (status,) = await process.pool.snapshot()
    assert (600, 600 * 4 - 1) == (len(status.accounts), status.free)


async def test_an_account_on_two_pages_counts_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HSCAN may return it twice."""
    run = Scripts.run

    async def run_twice(scripts: Scripts, act: str, upstream: str, args: list[Any]) -> Reply:
        if act != "snapshot":
            return await run(scripts, act, upstream, args)
        reply = await run(scripts, act, upstream, ["0"])
        return msgspec.structs.replace(reply, cursor="1") if args == ["0"] else reply

    monkeypatch.setattr(Scripts, "run", run_twice)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=LIMITS)) as process:
        (status,) = await process.pool.snapshot()
    assert (["a"], 4) == ([found.name for found in status.accounts], status.free)


def test_the_longest_wait_is_that_of_the_interactive_request_that_came_first(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(requests_per_minute=10, max_concurrency=1)})
    clocked.take("held")
    assert "oldest_wait_s" not in clocked.look()
    clocked.wait("line", "batches", priority="b")
    clocked.clock.advance(5)
    clocked.wait("first", "b", 4)
    clocked.clock.advance(2)
    clocked.wait("second", "a", 1)
    clocked.clock.advance(1)
    assert (2, 3.0) == (clocked.look()["waiting"], clocked.look()["oldest_wait_s"])
