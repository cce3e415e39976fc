"""Jobs that wait for an account: at which target, for how long, and what is left of their time for the call itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import ErrorCode
from tests.support.harness import Simulator
from tests.support.upstreams import ONE_AT_ONCE, Site, fault_of, running

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

ONE_A_MINUTE: Final = AccountLimits(1, 1_000_000, 10_000)


def sites_of(simulator: Simulator, *limits: AccountLimits) -> list[Site]:
    """Targets of one account each: "0", "1" and so on."""
    return [
        Site(f"up{number}", simulator.url, (f"{number}/{number}-1",), limits=of) for number, of in enumerate(limits)
    ]


def users(simulator: Simulator) -> list[str]:
    """Whose keys were used, in order."""
    return [request["headers"]["authorization"] for request in simulator.requests()]


async def in_flight(
    simulator: Simulator, make: Callable[..., Awaitable[Any]], *prompts: str
) -> list[asyncio.Future[Any]]:
    """Jobs whose calls have arrived, one after the other, each at the first target that is free."""
    jobs: list[asyncio.Future[Any]] = []
    for prompt in prompts:
        before = len(simulator.requests())
        jobs.append(asyncio.ensure_future(make(prompt=prompt, max_wait_s=0)))
        ends = time.monotonic() + 5
        while len(simulator.requests()) == before:
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)
    return jobs


async def test_a_job_in_the_queue_goes_on_to_the_next_target_after_a_while(
    redis_url: str, simulator: Simulator
) -> None:
    sites = sites_of(simulator, ONE_AT_ONCE, ONE_AT_ONCE)
    async with running(redis_url, *sites, max_wait_s=20.0, fallback_after_s=0.3) as make:
        [slow] = await in_flight(simulator, make, "[delay=1.5]")
        started_s = time.monotonic()
        await make()
        assert 0.25 < time.monotonic() - started_s < 1.1
        assert not slow.done()
        await slow


@pytest.mark.parametrize("place", range(3))
async def test_a_job_whose_targets_are_all_busy_waits_at_the_one_that_has_room_first(
    redis_url: str, simulator: Simulator, place: int
) -> None:
    """One target's call ends soon; the minutes of the others are full."""
    limits = [ONE_A_MINUTE] * 3
    limits[place] = ONE_AT_ONCE
    prompts = ["x"] * 3
    prompts[place] = "[delay=2.5]"
    async with running(redis_url, *sites_of(simulator, *limits), max_wait_s=20.0, fallback_after_s=0.2) as make:
        slow = (await in_flight(simulator, make, *prompts))[place]
        started_s = time.monotonic()
        assert 1 == len((await make()).pictures)
        assert time.monotonic() - started_s < 8
        await slow
    assert ["0", "1", "2", str(place)] == users(simulator)


@pytest.mark.parametrize("targets", [1, 2, 3])
async def test_the_longest_wait_counts_once_however_many_targets_there_are(
    redis_url: str, simulator: Simulator, targets: int
) -> None:
    sites = sites_of(simulator, *[ONE_AT_ONCE] * targets)
    async with running(redis_url, *sites, max_wait_s=1.5, fallback_after_s=1.0) as make:
        slow = await in_flight(simulator, make, *["[delay=4]"] * targets)
        started_s = time.monotonic()
        assert ErrorCode.NO_CAPACITY is await fault_of(make)
        assert time.monotonic() - started_s < 2.3
        await asyncio.gather(*slow)
    assert targets == len(simulator.requests())


async def test_the_longest_wait_counts_once_however_often_a_job_is_sent_again(
    redis_url: str, simulator: Simulator
) -> None:
    """Its first call fails; somebody else has taken the room by then."""
    site = Site("up", simulator.url, ("0/0-1", "0/0-2"), limits=ONE_AT_ONCE)
    async with running(redis_url, site, max_wait_s=2.0) as make:
        slow = await in_flight(simulator, make, "[delay=1.5]")
        started_s = time.monotonic()
        failing = asyncio.ensure_future(fault_of(make, prompt="[code=1000]"))
        await asyncio.sleep(0.2)
        slow.append(asyncio.ensure_future(make(prompt="[delay=4]")))
        assert ErrorCode.UPSTREAM_ERROR is await failing
        assert time.monotonic() - started_s < 2.8
        await asyncio.gather(*slow)
    assert 3 == len(simulator.requests())


async def test_who_waits_not_at_all_is_served_by_what_is_free(redis_url: str, simulator: Simulator) -> None:
    """And is told at once where nothing is."""
    sites = sites_of(simulator, ONE_AT_ONCE, ONE_AT_ONCE)
    async with running(redis_url, *sites, max_wait_s=20.0, fallback_after_s=10.0) as make:
        slow = await in_flight(simulator, make, "[delay=2]")
        assert 1 == len((await make(max_wait_s=0)).pictures)
        slow += await in_flight(simulator, make, "[delay=2]")
        started_s = time.monotonic()
        assert ErrorCode.NO_CAPACITY is await fault_of(make, max_wait_s=0)
        assert time.monotonic() - started_s < 1.0
        await asyncio.gather(*slow)
    assert ["0", "1", "1"] == users(simulator)


@pytest.mark.parametrize(("delay_s", "is_served"), [(0.6, True), (2.4, False)])
async def test_no_wait_takes_the_time_that_the_call_itself_needs(
    redis_url: str, simulator: Simulator, delay_s: float, *, is_served: bool
) -> None:
    """Of three seconds a call keeps the last one and a half, however long the job would wait."""
    sites = sites_of(simulator, ONE_AT_ONCE)
    async with running(redis_url, *sites, deadline_s=3.0, reserve_s=1.5) as make:
        [slow] = await in_flight(simulator, make, f"[delay={delay_s}]")
        started_s = time.monotonic()
        if is_served:
            await make(max_wait_s=1000)
        else:
            assert ErrorCode.NO_CAPACITY is await fault_of(make, max_wait_s=1000)
            assert time.monotonic() - started_s < 2.2
        await slow
    assert (2 if is_served else 1) == len(simulator.requests())
