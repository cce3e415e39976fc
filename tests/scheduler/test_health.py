"""What becomes of keys, accounts and upstreams that fail, and how they come back."""

import time

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import ERROR_SPECS, ErrorCode, KeyState
from gateway.scheduler import NOT_SENT, CallReport, Lease
from gateway.scheduler.status import KeyStatus
from tests.support.asking import connected
from tests.support.health import A, B, fail, ill, look, only, standings, succeed, transitions
from tests.support.pooling import MINUTE_S, account, pass_time, pooling

pytestmark = pytest.mark.anyio

RESTS: dict[ErrorCode, tuple[set[str], KeyState, int, int]] = {
    ErrorCode.ACCOUNT_RATE_LIMITED: ({"a"}, KeyState.COOLING, 15, 15),
    ErrorCode.ACCOUNT_TOKEN_LIMITED: ({"a"}, KeyState.COOLING, 60, 60),
    ErrorCode.ACCOUNT_CONNECTION_LIMITED: ({"a"}, KeyState.COOLING, 10, 10),
    ErrorCode.ACCOUNT_GROWTH_LIMITED: ({"a"}, KeyState.COOLING, 20, 20),
    ErrorCode.KEY_INVALID: ({"a/a-1"}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.ACCOUNT_UNVERIFIED: ({"a"}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.KEY_MODEL_DENIED: ({"a/a-1"}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.KEY_LIMIT_REACHED: ({"a/a-1"}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.INSUFFICIENT_BALANCE: ({"a"}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.IP_DENIED: ({""}, KeyState.QUARANTINED, 600, 1800),
    ErrorCode.MODEL_UNAVAILABLE: ({""}, KeyState.COOLING, 30, 30),
    ErrorCode.QUOTA_EXHAUSTED_PLAN: ({"a"}, KeyState.COOLING, 3_600, 3_600),
    ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR: ({"a/a-1"}, KeyState.COOLING, 3_600, 3_600),
    ErrorCode.QUOTA_EXHAUSTED_DAILY: ({"a"}, KeyState.COOLING, 1, 86_400),
    ErrorCode.QUOTA_EXHAUSTED_KEY_DAY: ({"a/a-1"}, KeyState.COOLING, 1, 86_400),
    ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH: ({"a/a-1"}, KeyState.COOLING, 1, 31 * 86_400),
}
"""What rests after a fault of key a-1, how, and for how many seconds (reference/minimax.md sections 3 and 5.3)."""


@pytest.mark.parametrize("error_code", RESTS, ids=lambda error_code: error_code.value)
async def test_a_fault_puts_exactly_that_to_rest_which_it_concerns(redis_url: str, error_code: ErrorCode) -> None:
    resting, state, shortest_s, longest_s = RESTS[error_code]
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        before_s = time.time()
        await fail(process, error_code, "a/a-2", "b/")
        found = await standings(process)
    assert dict.fromkeys(resting, state) == {
        name: one.state for name, one in found.items() if one.state is not KeyState.READY
    }
    told = found[next(iter(resting))]
    assert error_code.value == told.error_code
    assert told.until_s is not None
    assert before_s + shortest_s - 2 <= told.until_s <= time.time() + longest_s + 1
    if isinstance(told, KeyStatus):
        assert ("image-01" if error_code is ErrorCode.KEY_MODEL_DENIED else None) == told.model


@pytest.mark.parametrize(
    "error_code",
    [error_code for error_code in ErrorCode if error_code not in RESTS],
    ids=lambda error_code: error_code.value,
)
async def test_a_fault_of_no_key_puts_none_to_rest(redis_url: str, error_code: ErrorCode) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        await fail(process, error_code)
        assert {} == await ill(process)
        assert [100_000] == [one.requests_per_minute_now for one in (await look(process)).accounts]


@pytest.mark.parametrize(
    "error_code", [ErrorCode.CONTENT_INPUT, ErrorCode.PROMPT_TOO_LONG, ErrorCode.UPSTREAM_REJECTED]
)
async def test_what_a_tenant_did_wrong_does_not_open_the_breaker_and_costs_no_key(
    redis_url: str, error_code: ErrorCode
) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        for _ in range(20):
            await fail(process, error_code)
        assert {} == await ill(process)
        assert {} == transitions(process)


async def test_resting_accounts_and_keys_are_passed_over(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED, "a/")
        await fail(process, ErrorCode.KEY_INVALID, "a/a-2")
        assert {"a-2"} == {(await process.take()).key.name for _ in range(4)}


@pytest.mark.parametrize(
    ("error_code", "is_busy"),
    [
        (ErrorCode.ACCOUNT_RATE_LIMITED, True),
        (ErrorCode.ACCOUNT_CONNECTION_LIMITED, True),
        (ErrorCode.KEY_INVALID, False),
        (ErrorCode.INSUFFICIENT_BALANCE, False),
        (ErrorCode.QUOTA_EXHAUSTED_DAILY, False),
    ],
)
async def test_a_pool_at_rest_says_how_long_and_whether_it_is_only_busy(
    redis_url: str, error_code: ErrorCode, *, is_busy: bool
) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, error_code)
        refused = await process.refuse()
        found = [one.until_s for one in (await standings(process)).values() if one.until_s]
    assert is_busy == refused.is_busy
    assert refused.wait_s == pytest.approx(found[0] - time.time(), abs=3)


async def test_a_model_that_a_key_may_not_make_leaves_its_other_models_alone(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await fail(process, ErrorCode.KEY_MODEL_DENIED)
        assert not (await process.refuse()).is_busy
        await process.take(model="image-01-live")


async def test_a_rest_only_moves_outward_and_the_longer_one_keeps_its_reason(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        leases = [await process.take() for _ in range(3)]
        await process.pool.release(leases[0], CallReport(ErrorCode.QUOTA_EXHAUSTED_PLAN))
        before = await only(process)
        await process.pool.release(leases[1], CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        await process.pool.release(leases[2], CallReport(images=1))
        after = await only(process)
    assert (before.state, before.error_code, before.since_s) == (after.state, after.error_code, after.since_s)
    assert before.until_s == after.until_s


async def test_the_cooldown_that_an_error_carries_replaces_the_tables(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await process.pool.release(
            await process.take(), CallReport(ErrorCode.QUOTA_EXHAUSTED_PLAN, cooldown_s=18_000.0)
        )
        found = await only(process)
    assert found.until_s is not None
    assert found.until_s - time.time() == pytest.approx(18_000, abs=30)


@pytest.mark.parametrize(("asked_s", "rest_s"), [(120.0, 121), (1.0, 15)])
async def test_a_pause_that_the_upstream_asks_for_can_only_lengthen(
    redis_url: str, asked_s: float, rest_s: int
) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED, pause_s=asked_s)
        assert (await process.refuse()).wait_s == pytest.approx(rest_s, abs=2)


@pytest.mark.parametrize(
    "error_code", [ErrorCode.ACCOUNT_RATE_LIMITED, ErrorCode.KEY_INVALID, ErrorCode.KEY_MODEL_DENIED]
)
async def test_half_open_lets_one_call_through_and_its_success_clears(any_redis: str, error_code: ErrorCode) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await fail(process, error_code)
        await pass_time(redis, ERROR_SPECS[error_code].pause_s)
        probe = await process.take()
        assert (await process.refuse()).is_busy
        await process.pool.release(probe, CallReport(images=1))
        assert {} == await ill(process)
        for _ in range(3):
            await process.take()


@pytest.mark.parametrize("error_code", [ErrorCode.ACCOUNT_RATE_LIMITED, ErrorCode.KEY_INVALID])
async def test_a_probe_that_was_not_sent_or_is_never_heard_of_lets_the_next_try(
    redis_url: str, error_code: ErrorCode
) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, error_code)
        await pass_time(redis, ERROR_SPECS[error_code].pause_s)
        await process.pool.release(await process.take(), NOT_SENT)
        lost = await process.take()
        process.queue.parts["sim"].leases.pop(lost.id)
        await pass_time(redis, MINUTE_S)
        await succeed(process)
        assert {} == await ill(process)


async def test_a_busy_account_rests_twice_as_long_each_time_until_a_success(any_redis: str) -> None:
    """15 s, doubled up to 60 (reference/minimax.md section 3, code 1002)."""
    waits = []
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        for _ in range(4):
            await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED)
            waits.append(round((await process.refuse()).wait_s or 0))
            await pass_time(redis, 61)
        await succeed(process)
        await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED)
        waits.append(round((await process.refuse()).wait_s or 0))
    assert [15, 30, 60, 60, 15] == waits


async def test_a_rate_limit_lowers_what_the_account_is_believed_to_allow_and_it_recovers_by_a_tenth_a_minute(
    any_redis: str,
) -> None:
    """Somebody else uses the account: it refused the seventh of twenty."""
    limits = AccountLimits(requests_per_minute=20, images_per_minute=1000)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = [await process.take() for _ in range(7)]
        for lease in leases[:6]:
            await process.pool.release(lease, CallReport(images=1))
        await process.pool.release(leases[6], CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        assert 10 == (await only(process)).requests_per_minute_now
        seen = []
        for _ in range(6):
            await pass_time(redis, 60)
            seen.append((await only(process)).requests_per_minute_now)
    assert [12, 14, 16, 18, 20, 20] == seen


async def test_an_account_that_is_believed_to_allow_less_gets_no_more(redis_url: str) -> None:
    limits = AccountLimits(requests_per_minute=10, images_per_minute=1000)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = [await process.take() for _ in range(10)]
        await process.pool.release(leases[0], CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        for lease in leases[1:]:
            await process.pool.release(lease, CallReport(images=1))
        assert 9 == (await only(process)).requests_per_minute_now
        await pass_time(redis, MINUTE_S)
        await succeed(process)
        granted = [await process.ask() for _ in range(12)]
        assert 10 == 1 + sum(isinstance(one, Lease) for one in granted)


async def test_a_connection_limit_lowers_how_many_calls_go_at_once(any_redis: str) -> None:
    limits = AccountLimits(1000, 1000, max_concurrency=10)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = [await process.take() for _ in range(6)]
        await process.pool.release(leases[0], CallReport(ErrorCode.ACCOUNT_CONNECTION_LIMITED))
        assert 5 == (await only(process)).max_concurrency_now
        await pass_time(redis, 60)
        assert 6 == (await only(process)).max_concurrency_now
        for lease in leases[1:]:
            await process.pool.release(lease, CallReport(images=1))
        granted = [await process.ask() for _ in range(12)]
        assert 6 == sum(isinstance(one, Lease) for one in granted)


async def test_a_forecast_knows_what_an_account_is_believed_to_allow(redis_url: str) -> None:
    """Ten were sent at moments 5 s apart and it allows nine now: the first that ends makes no room yet."""
    limits = AccountLimits(requests_per_minute=10, images_per_minute=1000)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = []
        for _ in range(10):
            await pass_time(redis, 4)
            leases.append(await process.take())
        await process.pool.release(leases.pop(), CallReport(ErrorCode.ACCOUNT_RATE_LIMITED))
        for lease in leases:
            await process.pool.release(lease, CallReport(images=1))
        await pass_time(redis, 15.5)
        wait_s = (await process.refuse()).wait_s or 0
        await pass_time(redis, wait_s - 0.5)
        await process.refuse()
        await pass_time(redis, 0.6)
        await process.take()
