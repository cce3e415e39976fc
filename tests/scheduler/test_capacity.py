"""An account is never asked for more than it allows, whoever asks and wherever."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import ErrorCode
from gateway.scheduler import NOT_SENT, CallReport, Lease, NoCapacity
from gateway.scheduler.scripts import record
from tests.support.asking import connected
from tests.support.pooling import MINUTE_S, Process, account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


async def crowd(processes: tuple[Process, ...], calls: int, **changes: object) -> list[Lease]:
    """As many calls at once, dealt out over the processes; what they got."""
    found = await asyncio.gather(*(processes[number % len(processes)].ask(**changes) for number in range(calls)))
    return [lease for lease in found if isinstance(lease, Lease)]


async def test_400_calls_at_once_over_two_processes_get_exactly_what_the_accounts_allow(any_redis: str) -> None:
    limits = AccountLimits(requests_per_minute=25, images_per_minute=1000, max_concurrency=1000)
    accounts = [account(name, f"{name}-1", f"{name}-2", limits=limits) for name in "ab"]
    async with (
        connected(any_redis, timeout_s=10) as redis,
        pooling(redis, *accounts) as one,
        pooling(redis, *accounts) as other,
    ):
        leases = await crowd((one, other), 400)
    assert {"a": 25, "b": 25} == {name: sum(lease.key.account == name for lease in leases) for name in "ab"}


async def test_processes_of_the_system_share_what_an_account_allows(redis_url: str) -> None:
    """Four programs that ask 100 times each: together they get what one would."""
    command = [sys.executable, "-m", "tests.scheduler.asking", redis_url, "100"]
    started = [
        await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE) for _ in range(4)
    ]
    told = await asyncio.gather(*(one.communicate() for one in started))
    assert 37 == sum(int(text) for text, _ in told)


async def test_images_count_as_many_as_they_are(any_redis: str) -> None:
    limits = AccountLimits(requests_per_minute=100, images_per_minute=20, max_concurrency=100)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        assert 2 == len(await crowd((process,), 10, images=9))
        assert 2 == len(await crowd((process,), 10, images=1))


async def test_calls_under_way_are_bounded_and_an_end_makes_room(any_redis: str) -> None:
    limits = AccountLimits(requests_per_minute=100, images_per_minute=100, max_concurrency=3)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = await crowd((process,), 10)
        assert 3 == len(leases)
        await process.pool.release(leases[0], CallReport(images=1))
        assert 1 == len(await crowd((process,), 10))


LIMITS = AccountLimits(requests_per_minute=2, images_per_minute=100, max_concurrency=100)


async def test_a_call_counts_for_a_minute_and_the_margin(any_redis: str) -> None:
    """Each for itself: the window slides."""
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=LIMITS)) as process:
        await process.take()
        await pass_time(redis, 30)
        await process.take()
        await pass_time(redis, 29.5)
        await process.refuse()
        await pass_time(redis, 1.5)
        await process.take()
        await process.refuse()
        await pass_time(redis, 29)
        await process.refuse()
        await pass_time(redis, 1.5)
        await process.take()
        await process.refuse()


@pytest.mark.slow
async def test_a_minute_of_the_clock_is_a_minute(redis_url: str) -> None:
    """The one test that waits for it."""
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=LIMITS)) as process:
        started_s = asyncio.get_running_loop().time()
        await process.take()
        await process.take()
        await process.take(patience_s=70)
        waited_s = asyncio.get_running_loop().time() - started_s
    assert MINUTE_S <= waited_s < MINUTE_S + 1


async def test_what_was_not_sent_does_not_count(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=LIMITS)) as process:
        for _ in range(5):
            await process.pool.release(await process.take(), NOT_SENT)
        assert 2 == len(await crowd((process,), 5))


async def test_what_was_sent_counts_after_its_call_has_ended(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=LIMITS)) as process:
        for error_code in (None, ErrorCode.CONTENT_INPUT):
            await process.pool.release(await process.take(), CallReport(error_code))
        assert [] == await crowd((process,), 5)


async def test_a_call_that_was_sent_late_counts_from_then(redis_url: str) -> None:
    """Leased 40 s ago, sent 30 s ago, ended now: its minute ends in 31 s."""
    limits = AccountLimits(requests_per_minute=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        lease = await process.take()
        await pass_time(redis, 40)
        await process.pool.release(lease, CallReport(sent_s=lease.taken_s + 10))
        refused = await process.refuse()
        assert refused.wait_s == pytest.approx(31, abs=1)
        await pass_time(redis, 30)
        await process.refuse()
        await pass_time(redis, 1.5)
        await process.take()


async def test_a_call_that_was_sent_late_counts_from_then_while_it_is_under_way(redis_url: str) -> None:
    """It is told with the next sign of life, and the end of the call does not tell it again."""
    limits = AccountLimits(requests_per_minute=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits), lease_s=8) as process:
        lease = await process.take()
        await asyncio.sleep(1.5)
        sent_s = lease.taken_s + 1.4
        process.pool.note_sent(lease, sent_s)

        async def off_s() -> float:
            wait_s = (await process.refuse()).wait_s or 0
            return abs(time.monotonic() + wait_s - (sent_s + MINUTE_S))

        async with asyncio.timeout(6):
            while await off_s() > 0.4:  # noqa: ASYNC110 - Redis tells no event
                await asyncio.sleep(0.1)
        await process.pool.release(lease, CallReport(images=1, sent_s=sent_s))
        assert await off_s() < 0.4


async def test_a_late_call_of_a_busy_account_counts_from_when_it_was_sent(redis_url: str) -> None:
    """With so many others that the account's log is merged: none is lost and none is counted twice."""
    limits = AccountLimits(requests_per_minute=301, images_per_minute=10_000, max_concurrency=1000)
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = await crowd((process,), 300)
        await pass_time(redis, 40)
        for lease in leases[:100]:
            await process.pool.release(lease, CallReport(sent_s=lease.taken_s + 10))
        assert [300] == [one.requests_used for one in (await process.pool.snapshot())[0].accounts]
        await pass_time(redis, 22)
        assert [100] == [one.requests_used for one in (await process.pool.snapshot())[0].accounts]


async def test_what_was_not_sent_for_over_a_minute_takes_no_other_call_out_of_the_count(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=LIMITS), lease_s=600) as process:
        stuck = await process.take()
        await pass_time(redis, MINUTE_S)
        await process.take()
        await process.take()
        await process.pool.release(stuck, NOT_SENT)
        await process.refuse()


async def test_the_least_used_share_is_taken_by_weight(redis_url: str) -> None:
    """Two accounts of 10 and 20 a minute, the second of twice the weight: 1 to 4."""
    accounts = [
        account("a", limits=AccountLimits(1000, 100_000, 1000)),
        account("b", limits=AccountLimits(2000, 100_000, 2000, weight=2)),
    ]
    async with connected(redis_url, timeout_s=10) as redis, pooling(redis, *accounts) as process:
        used = [(await process.take()).key.account for _ in range(200)]
    assert 160 == pytest.approx(used.count("b"), abs=4)


async def test_keys_of_an_account_take_turns(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a", "a-1", "a-2", "a-3")) as process:
        used = [(await process.take()).key.name for _ in range(6)]
    assert {"a-1", "a-2", "a-3"} == set(used[:3])
    assert used[:3] == used[3:]


async def test_a_lease_that_nobody_renews_ends_and_its_call_counts_on(any_redis: str) -> None:
    """Its process is dead; whether the call was sent is not known."""
    limits = AccountLimits(requests_per_minute=2, max_concurrency=1)
    async with connected(any_redis) as redis:
        async with pooling(redis, account("a", limits=limits), lease_s=30) as dead:
            await dead.take()
        async with pooling(redis, account("a", limits=limits)) as process:
            await process.refuse()
            await pass_time(redis, 30)
            await process.take()
            assert [2] == [one.requests_used for one in (await process.pool.snapshot())[0].accounts]


@pytest.mark.parametrize(("lease_s", "others_wait"), [(2, False), pytest.param(9, True, marks=pytest.mark.slow)])
async def test_a_lease_is_renewed_as_long_as_its_process_lives(
    redis_url: str, lease_s: float, *, others_wait: bool
) -> None:
    """Also where the process asks every second for one that waits."""
    limits = AccountLimits(max_concurrency=1)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits), lease_s=lease_s) as process:
        lease = await process.take()
        waiting = asyncio.ensure_future(process.ask(patience_s=60)) if others_wait else None
        await asyncio.sleep(lease_s + 1.5)
        assert await redis.zscore(record("sim", "leases"), lease.id)
        await process.pool.release(lease, CallReport(images=1))
        if waiting:
            assert isinstance(await waiting, Lease)


async def test_nothing_is_left_of_leases_that_were_given_back(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a"), account("b")) as process:
        leases = await crowd((process,), 40)
        assert 40 == len(leases)
        await asyncio.gather(*(process.pool.release(lease, CallReport(images=1)) for lease in leases))
        assert [] == await left_over(redis)
        assert [0, 0] == [one.in_flight for one in (await process.pool.snapshot())[0].accounts]


async def test_a_lease_that_redis_forgot_is_given_back_without_harm(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a")) as process:
        lease = await process.take()
        await redis.flushall()
        await process.pool.release(lease, CallReport(ErrorCode.UPSTREAM_TIMEOUT))
        for _ in range(3):
            assert not isinstance(await process.ask(), NoCapacity)
