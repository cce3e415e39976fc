"""The prober with the real pool: what was mended at the provider comes back by itself."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.domain.errors import ErrorCode, KeyState
from gateway.generation.key_checks import KeyHealthMonitor, Suspects
from gateway.generation.transport import AiohttpTransport
from gateway.redis import KEY_CHECK_LEADER, LeaderLock
from gateway.scheduler import CallReport
from tests.support.admissions import connected
from tests.support.harness import Simulator, simulating
from tests.support.health import ill
from tests.support.pages import asking
from tests.support.pooling import Process, account, pooling

pytestmark = pytest.mark.anyio


@pytest.fixture
def provider() -> Iterator[Simulator]:
    """A simulator of the test's own: it remembers what was ordered."""
    with simulating() as simulator:
        yield simulator


def order(provider: Simulator, path: str, code: int, **more: int) -> None:
    """Let a key or an account answer a code from now on."""
    httpx.put(f"{provider.url}/simulator/{path}", json={"answers": code} | more, verify=False).raise_for_status()


@asynccontextmanager
async def pool_and_prober(
    redis_url: str, provider: Simulator, *keys: str
) -> AsyncIterator[tuple[Process, KeyHealthMonitor]]:
    """The real pool of one account, and a prober that has the turn."""
    async with connected(redis_url) as redis, AiohttpTransport() as transport:
        turn = LeaderLock(redis, KEY_CHECK_LEADER, "me", 60)
        await turn.acquire()
        async with pooling(redis, account("main", *keys)) as process:
            pages = asking(transport, provider.url)
            yield (
                process,
                KeyHealthMonitor(
                    pages, process.roster, process.pool, turn, lambda: 0.0, Suspects(lambda: 0.0), every_s=60
                ),
            )


async def fail_with(process: Process, error_code: ErrorCode) -> None:
    await process.pool.release(await process.take(), CallReport(error_code))


@pytest.mark.parametrize(
    ("code", "path", "error_code"),
    [(2049, "keys/main-1", ErrorCode.KEY_INVALID), (1008, "accounts/main", ErrorCode.INSUFFICIENT_BALANCE)],
)
async def test_what_is_mended_at_the_provider_comes_back_by_itself(
    redis_url: str, provider: Simulator, code: int, path: str, error_code: ErrorCode
) -> None:
    async with pool_and_prober(redis_url, provider, "main-1") as (process, prober):
        order(provider, path, code)
        await fail_with(process, error_code)
        await prober.check_unhealthy()
        await process.refuse()
        order(provider, path, 0)
        await prober.check_unhealthy()
        lease = await process.take()
        await process.pool.release(lease, CallReport(images=1))
        [line] = await process.pool.snapshot()
    assert (KeyState.READY, KeyState.READY) == (line.accounts[0].state, line.accounts[0].keys[0].state)


async def test_a_used_up_plan_rests_until_the_page_says_that_it_is_released(
    redis_url: str, provider: Simulator
) -> None:
    async with pool_and_prober(redis_url, provider, "main-1") as (process, prober):
        order(provider, "accounts/main", 2056, remains_ms=600_000)
        await fail_with(process, ErrorCode.QUOTA_EXHAUSTED_PLAN)
        await prober.check_unhealthy()
        [line] = await process.pool.snapshot()
    left_s = (line.accounts[0].until_s or 0) - time.time()
    assert KeyState.COOLING is line.accounts[0].state
    assert 500 < left_s < 602


async def test_a_plan_that_is_released_early_is_used_at_the_next_round(redis_url: str, provider: Simulator) -> None:
    async with pool_and_prober(redis_url, provider, "main-1") as (process, prober):
        order(provider, "accounts/main", 2056, remains_ms=600_000)
        await fail_with(process, ErrorCode.QUOTA_EXHAUSTED_PLAN)
        await prober.check_unhealthy()
        order(provider, "accounts/main", 0)
        await prober.check_unhealthy()
        assert {"main": KeyState.HALF_OPEN} == await ill(process)
        await process.pool.release(await process.take(), CallReport(images=1))
        assert {} == await ill(process)


async def test_an_alarm_ends_though_one_of_the_keys_stays_dead(redis_url: str, provider: Simulator) -> None:
    """All were refused at once; all but the first are mended: each round asks one, and the dead one only once."""
    names = ("main-1", "main-2", "main-3")
    async with pool_and_prober(redis_url, provider, *names) as (process, prober):
        order(provider, "accounts/main", 2049)
        leases = [await process.take() for _ in names]
        for lease in leases:
            await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
        await prober.check_unhealthy()
        assert {"": KeyState.QUARANTINED, "main/main-1": KeyState.QUARANTINED} == await ill(process)
        order(provider, "accounts/main", 0)
        order(provider, "keys/main-1", 2049)
        await prober.check_unhealthy()
        assert {"": KeyState.HALF_OPEN, "main/main-1": KeyState.QUARANTINED} == await ill(process)
        await process.pool.release(await process.take(), CallReport(images=1))
        assert {"main/main-1": KeyState.QUARANTINED} == await ill(process)
        order(provider, "keys/main-1", 0)
        await prober.check_unhealthy()
        assert {"main/main-1": KeyState.HALF_OPEN} == await ill(process)
