"""Breaker, people's holds, the budget for retries, and how long all that is remembered."""

from datetime import UTC, datetime

import pytest

from gateway.domain.accounts import Account, AccountLimits, PoolConfig, ProviderKey, make_secret
from gateway.domain.errors import ERROR_SPECS, ErrorCode, KeyState, Outcome
from gateway.scheduler import CallReport, Lease, NoCapacity, RetryKind
from gateway.scheduler.scripts import record
from tests.scheduler.clocked_pool import ClockedPool
from tests.support.asking import connected
from tests.support.health import PERSON, A, B, fail, ill, standings, succeed, transitions
from tests.support.pooling import left_over, pass_time, pooling

pytestmark = pytest.mark.anyio

THREE = PoolConfig(breaker_failures=3, breaker_open_s=10.0, paced_percent=0)


async def test_the_breaker_opens_after_so_many_failures_in_a_row(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B, terms=THREE) as process:
        for error_code in (
            ErrorCode.UPSTREAM_ERROR,
            ErrorCode.READ_TIMEOUT,
            None,
            ErrorCode.CONNECT_FAILED,
            ErrorCode.CONNECTION_LOST,
        ):
            await process.pool.release(await process.take(), CallReport(error_code))
        assert {} == await ill(process)
        await fail(process, ErrorCode.UPSTREAM_ERROR)
        assert {"": KeyState.COOLING} == await ill(process)
        refused = await process.refuse(patience_s=60)
        assert not refused.is_busy
        assert refused.wait_s == pytest.approx(10, abs=1)


async def test_the_breaker_lets_one_probe_through_and_closes_after_its_success(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B, terms=THREE) as process:
        for _ in range(3):
            await fail(process, ErrorCode.UPSTREAM_ERROR)
        await pass_time(redis, 10)
        probe = await process.take()
        await process.refuse()
        await process.pool.release(probe, CallReport(images=1))
        assert {} == await ill(process)
        for _ in range(3):
            await process.take()


async def test_the_breaker_stays_open_longer_where_its_probe_fails(redis_url: str) -> None:
    waits = []
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for _ in range(3):
            await fail(process, ErrorCode.UPSTREAM_ERROR)
        for _ in range(4):
            waits.append(round((await process.refuse()).wait_s or 0))
            await pass_time(redis, 60)
            await fail(process, ErrorCode.UPSTREAM_ERROR)
    assert [10, 20, 40, 60] == waits


async def test_old_calls_that_hang_open_no_breaker_that_was_closed_since(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        hanging = [await process.take() for _ in range(20)]
        for lease in hanging[:3]:
            await process.pool.release(lease, CallReport(ErrorCode.READ_TIMEOUT))
        await pass_time(redis, 10)
        probe = await process.take()
        for lease in hanging[3:8]:
            await process.pool.release(lease, CallReport(ErrorCode.READ_TIMEOUT))
        await process.pool.release(probe, CallReport(images=1))
        for lease in hanging[8:]:
            await process.pool.release(lease, CallReport(ErrorCode.READ_TIMEOUT))
        assert {} == await ill(process)


async def test_one_tenants_failures_open_nothing_while_others_are_served(any_redis: str) -> None:
    """They may be of its prompts. As soon as another's fail too, or nobody else was served for a minute, they count."""
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        for served in ("other", "acme"):
            await process.pool.release(await process.take(tenant=served), CallReport(images=1))
        for _ in range(5):
            await fail(process, ErrorCode.UPSTREAM_ERROR)
        assert {} == await ill(process)
        await process.pool.release(await process.take(tenant="other"), CallReport(ErrorCode.UPSTREAM_ERROR))
        assert {"": KeyState.COOLING} == await ill(process)


@pytest.mark.parametrize("hostile", [2, 3, 10])
async def test_any_number_of_tenants_that_fail_open_nothing_while_another_is_served(
    any_redis: str, hostile: int
) -> None:
    """Their prompts are to blame. The last to be served counts for a minute, and until it fails too."""
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        for _ in range(3):
            await process.pool.release(await process.take(tenant="good"), CallReport(images=1))
            for number in range(3 * hostile):
                bad = await process.take(tenant=f"bad{number % hostile}")
                await process.pool.release(bad, CallReport(ErrorCode.UPSTREAM_ERROR))
            assert {} == await ill(process)
            await pass_time(redis, 50)
        await pass_time(redis, 11)
        await process.pool.release(await process.take(tenant="bad0"), CallReport(ErrorCode.UPSTREAM_ERROR))
        assert {"": KeyState.COOLING} == await ill(process)


async def test_an_upstream_that_fails_every_tenant_twice_is_left_alone_at_once(any_redis: str) -> None:
    tenants = ("one", "two", "three")
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        for outcome in (None, ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_ERROR):
            assert {} == await ill(process)
            for tenant in tenants:
                await process.pool.release(await process.take(tenant=tenant), CallReport(outcome, images=1))
        assert {"": KeyState.COOLING} == await ill(process)


async def test_tenants_that_are_served_are_remembered_within_bounds(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(100_000, 100_000, 10)})
    for number in range(1010):
        clocked.take("r", f"tenant{number}")
        clocked.release("r")
    name = "ig3:{pool:sim}:served"
    assert clocked.client.zcard(name) == 1000
    assert 0 < int(clocked.client.ttl(name))


async def test_one_tenants_failures_open_the_breaker_where_nobody_else_was_served_for_a_minute(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        await process.pool.release(await process.take(tenant="other"), CallReport(images=1))
        await pass_time(redis, 61)
        await succeed(process)
        for _ in range(3):
            await fail(process, ErrorCode.UPSTREAM_ERROR)
        assert {"": KeyState.COOLING} == await ill(process)


async def test_a_call_that_was_cut_short_says_nothing_of_the_upstream(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for _ in range(5):
            await process.pool.release(await process.take(), CallReport(ErrorCode.READ_TIMEOUT, is_cut_short=True))
        assert {} == await ill(process)


async def test_a_probe_that_is_refused_for_what_it_asks_closes_the_breaker(redis_url: str) -> None:
    """The upstream answers as it should."""
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for _ in range(3):
            await fail(process, ErrorCode.UPSTREAM_ERROR)
        await pass_time(redis, 10)
        await fail(process, ErrorCode.CONTENT_INPUT)
        assert {} == await ill(process)


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.DRAINING])
async def test_what_a_person_took_out_is_not_used_and_what_it_does_goes_on(any_redis: str, state: KeyState) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        in_flight = await process.take(avoided=("b/", "a/a-2"))
        await process.roster.set_state("sim", "a", "a-1", state, PERSON)
        assert {"a/a-1": state} == await ill(process)
        assert "ann" == (await standings(process))["a/a-1"].held_by
        assert {"a-2", "b-1"} == {(await process.take()).key.name for _ in range(8)}
        await process.roster.set_state("sim", "b", None, state, PERSON)
        assert {"a-2"} == {(await process.take()).key.name for _ in range(3)}
        await process.pool.release(in_flight, CallReport(images=1))
        await process.roster.set_state("sim", "a", "a-1", KeyState.READY, PERSON)
        await process.roster.set_state("sim", "b", None, KeyState.READY, PERSON)
        assert {"a-1", "a-2", "b-1"} == {(await process.take()).key.name for _ in range(9)}


async def test_retries_are_a_fifth_of_the_calls_of_a_minute(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        for _ in range(50):
            await succeed(process)
        again = [await process.ask(repeat=RetryKind.RETRY) for _ in range(40)]
    granted = sum(isinstance(one, Lease) for one in again)
    assert 10 == pytest.approx(granted, abs=1)
    assert not any(one.is_busy for one in again if isinstance(one, NoCapacity))


async def test_three_retries_a_minute_are_allowed_however_few_calls_there_are(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        again = [await process.ask(repeat=RetryKind.RETRY) for _ in range(6)]
        assert 3 == sum(isinstance(one, Lease) for one in again)
        await process.take(repeat=RetryKind.FAILOVER)
        await pass_time(redis, 120)
        await process.take(repeat=RetryKind.RETRY)


async def test_every_change_of_a_state_is_counted_once(any_redis: str) -> None:
    """Whoever sees it first: also who only looks."""
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        first, second = await process.take(), await process.take()
        await process.pool.release(first, CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        await process.pool.release(second, CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        await process.refuse()
        await pass_time(redis, 60)
        for _ in range(2):
            await process.pool.snapshot()
        await succeed(process)
        await succeed(process)
        told = transitions(process)
    assert {
        ("b", "cooling", "account_rate_limited"): 1,
        ("b", "half_open", "account_rate_limited"): 1,
        ("b", "ready", "none"): 1,
    } == told


async def test_the_record_outlives_a_rest_of_a_month(any_redis: str) -> None:
    """A month's quota spent on the first: Redis must not forget it before the month ends."""
    now_s = datetime(2027, 1, 1, 0, 0, 5, tzinfo=UTC).timestamp()
    async with connected(any_redis) as redis, pooling(redis, B, clock=lambda: now_s) as process:
        await fail(process, ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH)
        assert await redis.ttl(record("sim", "health")) > 31 * 86_400


async def test_a_pool_that_is_used_does_not_forget_its_accounts(any_redis: str) -> None:
    """What expires when it is idle lives on with every minute in which it is used."""
    names = [record("sim", name) for name in ("members", "declared", "meta", "loads")]
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await succeed(process)
        for name in names:
            await redis.expire(name, 100)
        await pass_time(redis, 60)
        await succeed(process)
        assert [] == [name for name in names if await redis.ttl(name) < 30 * 86_400]


_HOLDS = "return string.find(redis.call('DUMP', KEYS[1]), ARGV[1], 1, true) or 0"


async def test_no_secret_is_in_redis_and_all_that_is_transient_ends(any_redis: str) -> None:
    """Of everything that a pool writes: only what people said stays."""
    secret = make_secret("a-very-secret-value")
    mine = Account("sim", "a", A.limits, (ProviderKey("sim", "a", "a-1", secret),))
    async with connected(any_redis) as redis, pooling(redis, mine, B) as process:
        await process.roster.set_state("sim", "b", None, KeyState.DRAINING, PERSON)
        await fail(process, ErrorCode.KEY_INVALID)
        await process.refuse()
        names = [str(name) async for name in redis.scan_iter("ig3:*pool*")]
        assert 8 < len(names)
        staying = {name.rpartition(":")[2] for name in names if await redis.ttl(name) < 0}
        found = [await redis.eval(_HOLDS, 1, name, secret.plaintext) for name in names]
        assert [] == await left_over(redis)
    assert {"held", "audit"} == staying
    assert [0] * len(names) == found


async def test_a_refused_call_is_no_failure_of_the_upstream(redis_url: str) -> None:
    """The table and the breaker agree on what tells of a working upstream."""
    assert [] == [
        error_code for error_code, row in ERROR_SPECS.items() if row.trips_breaker and row.outcome is Outcome.DELIVERED
    ]
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for error_code in (
            ErrorCode.UPSTREAM_ERROR,
            ErrorCode.UPSTREAM_ERROR,
            ErrorCode.CONTENT_INPUT,
            ErrorCode.UPSTREAM_ERROR,
        ):
            await fail(process, error_code)
        assert {} == await ill(process)
