"""What becomes of keys, accounts and upstreams that fail, and how they come back."""

import time
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from gateway.domain.audit import Actor
from gateway.domain.faults import TABLE, Fault, Outcome, State
from gateway.domain.keys import Account, AccountLimits, PoolTerms, UpstreamKey, make_secret
from gateway.stores.pool import UNSENT, Lease, NoKey, Repeat, Report
from gateway.stores.pool.scripts import record
from gateway.stores.pool.status import AccountStatus, KeyStatus, PoolStatus, Standing
from tests.asking import connected
from tests.pooling import MINUTE_S, Process, account, left_over, pass_time, pooling

pytestmark = pytest.mark.anyio

A, B = account("a", "a-1", "a-2"), account("b")
PERSON = Actor("ann")
RESTS: dict[Fault, tuple[set[str], State, int, int]] = {
    Fault.ACCOUNT_RATE_LIMITED: ({"a"}, State.COOLING, 15, 15),
    Fault.ACCOUNT_TOKEN_LIMITED: ({"a"}, State.COOLING, 60, 60),
    Fault.ACCOUNT_CONNECTION_LIMITED: ({"a"}, State.COOLING, 10, 10),
    Fault.ACCOUNT_GROWTH_LIMITED: ({"a"}, State.COOLING, 20, 20),
    Fault.KEY_INVALID: ({"a/a-1"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_UNVERIFIED: ({"a"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_MODEL_DENIED: ({"a/a-1"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_LIMIT_REACHED: ({"a/a-1"}, State.QUARANTINED, 600, 1800),
    Fault.BALANCE_EMPTY: ({"a"}, State.QUARANTINED, 600, 1800),
    Fault.EGRESS_DENIED: ({""}, State.QUARANTINED, 600, 1800),
    Fault.UPSTREAM_NO_CHANNEL: ({""}, State.COOLING, 30, 30),
    Fault.WINDOW_SPENT: ({"a"}, State.COOLING, 18_000, 18_000),
    Fault.KEY_HOUR_SPENT: ({"a/a-1"}, State.COOLING, 3_600, 3_600),
    Fault.DAY_SPENT: ({"a"}, State.COOLING, 1, 86_400),
    Fault.KEY_DAY_SPENT: ({"a/a-1"}, State.COOLING, 1, 86_400),
    Fault.KEY_MONTH_SPENT: ({"a/a-1"}, State.COOLING, 1, 31 * 86_400),
}
"""What rests after a fault of key a-1, how, and for how many seconds (reference/minimax.md sections 3 and 5.3)."""


async def look(process: Process) -> PoolStatus:
    return (await process.pool.look())[0]


async def standings(process: Process) -> dict[str, Standing]:
    """By "" (the upstream), account and ACCOUNT/KEY."""
    pool = await look(process)
    found: dict[str, Standing] = {"": pool}
    for one in pool.accounts:
        found |= {one.name: one} | {f"{key.account}/{key.name}": key for key in one.keys}
    return found


async def ill(process: Process) -> dict[str, State]:
    return {name: one.state for name, one in (await standings(process)).items() if one.state is not State.READY}


async def only(process: Process) -> AccountStatus:
    (found,) = (await look(process)).accounts
    return found


async def fail(process: Process, fault: Fault, *avoided: str, pause_s: float | None = None) -> None:
    """A call with a key that is not avoided fails."""
    await process.pool.release(await process.take(avoided=avoided), Report(fault, pause_s))


async def succeed(process: Process, *avoided: str) -> None:
    await process.pool.release(await process.take(avoided=avoided), Report(images=1))


def transitions(process: Process) -> dict[tuple[str, str, str], float]:
    """How often, by account/key, state and fault."""
    (family,) = process.metrics.pool_transitions.collect()
    return {
        (
            f"{sample.labels['account']}/{sample.labels['key']}".strip("/"),
            sample.labels["state"],
            sample.labels["fault"],
        ): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }


@pytest.mark.parametrize("fault", RESTS, ids=lambda fault: fault.value)
async def test_a_fault_puts_exactly_that_to_rest_which_it_concerns(redis_url: str, fault: Fault) -> None:
    resting, state, shortest_s, longest_s = RESTS[fault]
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        before_s = time.time()
        await fail(process, fault, "a/a-2", "b/")
        found = await standings(process)
    assert dict.fromkeys(resting, state) == {
        name: one.state for name, one in found.items() if one.state is not State.READY
    }
    told = found[next(iter(resting))]
    assert fault.value == told.fault
    assert told.until_s is not None
    assert before_s + shortest_s - 2 <= told.until_s <= time.time() + longest_s + 1
    if isinstance(told, KeyStatus):
        assert ("image-01" if fault is Fault.KEY_MODEL_DENIED else None) == told.model


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in RESTS], ids=lambda fault: fault.value)
async def test_a_fault_of_no_key_puts_none_to_rest(redis_url: str, fault: Fault) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        await fail(process, fault)
        assert {} == await ill(process)
        assert [100_000] == [one.requests_per_minute_now for one in (await look(process)).accounts]


@pytest.mark.parametrize("fault", [Fault.CONTENT_INPUT, Fault.PROMPT_TOO_LONG, Fault.UPSTREAM_REJECTED])
async def test_what_a_tenant_did_wrong_does_not_open_the_breaker_and_costs_no_key(
    redis_url: str, fault: Fault
) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        for _ in range(20):
            await fail(process, fault)
        assert {} == await ill(process)
        assert {} == transitions(process)


async def test_resting_accounts_and_keys_are_passed_over(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await fail(process, Fault.ACCOUNT_RATE_LIMITED, "a/")
        await fail(process, Fault.KEY_INVALID, "a/a-2")
        assert {"a-2"} == {(await process.take()).key.name for _ in range(4)}


@pytest.mark.parametrize(
    ("fault", "is_busy"),
    [
        (Fault.ACCOUNT_RATE_LIMITED, True),
        (Fault.ACCOUNT_CONNECTION_LIMITED, True),
        (Fault.KEY_INVALID, False),
        (Fault.BALANCE_EMPTY, False),
        (Fault.DAY_SPENT, False),
    ],
)
async def test_a_pool_at_rest_says_how_long_and_whether_it_is_only_busy(
    redis_url: str, fault: Fault, *, is_busy: bool
) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, fault)
        refused = await process.refuse()
        found = [one.until_s for one in (await standings(process)).values() if one.until_s]
    assert is_busy == refused.is_busy
    assert refused.wait_s == pytest.approx(found[0] - time.time(), abs=3)


async def test_a_model_that_a_key_may_not_make_leaves_its_other_models_alone(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await fail(process, Fault.KEY_MODEL_DENIED)
        assert not (await process.refuse()).is_busy
        await process.take(model="image-01-live")


async def test_a_rest_only_moves_outward_and_the_longer_one_keeps_its_reason(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        leases = [await process.take() for _ in range(3)]
        await process.pool.release(leases[0], Report(Fault.WINDOW_SPENT))
        before = await only(process)
        await process.pool.release(leases[1], Report(Fault.ACCOUNT_RATE_LIMITED))
        await process.pool.release(leases[2], Report(images=1))
        after = await only(process)
    assert (before.state, before.fault, before.since_s) == (after.state, after.fault, after.since_s)
    assert before.until_s == after.until_s


@pytest.mark.parametrize(("asked_s", "rest_s"), [(120.0, 121), (1.0, 15)])
async def test_a_pause_that_the_upstream_asks_for_can_only_lengthen(
    redis_url: str, asked_s: float, rest_s: int
) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, Fault.ACCOUNT_RATE_LIMITED, pause_s=asked_s)
        assert (await process.refuse()).wait_s == pytest.approx(rest_s, abs=2)


@pytest.mark.parametrize("fault", [Fault.ACCOUNT_RATE_LIMITED, Fault.KEY_INVALID, Fault.KEY_MODEL_DENIED])
async def test_half_open_lets_one_call_through_and_its_success_clears(any_redis: str, fault: Fault) -> None:
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await fail(process, fault)
        await pass_time(redis, TABLE[fault].pause_s)
        probe = await process.take()
        assert (await process.refuse()).is_busy
        await process.pool.release(probe, Report(images=1))
        assert {} == await ill(process)
        for _ in range(3):
            await process.take()


@pytest.mark.parametrize("fault", [Fault.ACCOUNT_RATE_LIMITED, Fault.KEY_INVALID])
async def test_a_probe_that_was_not_sent_or_is_never_heard_of_lets_the_next_try(redis_url: str, fault: Fault) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, fault)
        await pass_time(redis, TABLE[fault].pause_s)
        await process.pool.release(await process.take(), UNSENT)
        lost = await process.take()
        process.queue.let_go("sim", lost.id)
        await pass_time(redis, MINUTE_S)
        await succeed(process)
        assert {} == await ill(process)


async def test_a_busy_account_rests_twice_as_long_each_time_until_a_success(any_redis: str) -> None:
    """15 s, doubled up to 60 (reference/minimax.md section 3, code 1002)."""
    waits = []
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        for _ in range(4):
            await fail(process, Fault.ACCOUNT_RATE_LIMITED)
            waits.append(round((await process.refuse()).wait_s or 0))
            await pass_time(redis, 61)
        await succeed(process)
        await fail(process, Fault.ACCOUNT_RATE_LIMITED)
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
            await process.pool.release(lease, Report(images=1))
        await process.pool.release(leases[6], Report(Fault.ACCOUNT_RATE_LIMITED))
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
        await process.pool.release(leases[0], Report(Fault.ACCOUNT_RATE_LIMITED))
        for lease in leases[1:]:
            await process.pool.release(lease, Report(images=1))
        assert 9 == (await only(process)).requests_per_minute_now
        await pass_time(redis, MINUTE_S)
        await succeed(process)
        granted = [await process.ask() for _ in range(12)]
        assert 10 == 1 + sum(isinstance(one, Lease) for one in granted)


async def test_a_connection_limit_lowers_how_many_calls_go_at_once(any_redis: str) -> None:
    limits = AccountLimits(1000, 1000, max_concurrency=8)
    async with connected(any_redis) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = [await process.take() for _ in range(6)]
        await process.pool.release(leases[0], Report(Fault.ACCOUNT_CONNECTION_LIMITED))
        assert 4 == (await only(process)).max_concurrency_now
        await pass_time(redis, 60)
        assert 5 == (await only(process)).max_concurrency_now
        assert isinstance(await process.ask(), NoKey)
        for lease in leases[1:]:
            await process.pool.release(lease, Report(images=1))
        granted = [await process.ask() for _ in range(12)]
        assert 5 == sum(isinstance(one, Lease) for one in granted)


async def test_a_forecast_knows_what_an_account_is_believed_to_allow(redis_url: str) -> None:
    """Ten were sent at moments 5 s apart and it allows nine now: the first that ends makes no room yet."""
    limits = AccountLimits(requests_per_minute=10, images_per_minute=1000)
    async with connected(redis_url) as redis, pooling(redis, account("a", limits=limits)) as process:
        leases = []
        for _ in range(10):
            await pass_time(redis, 4)
            leases.append(await process.take())
        await process.pool.release(leases.pop(), Report(Fault.ACCOUNT_RATE_LIMITED))
        for lease in leases:
            await process.pool.release(lease, Report(images=1))
        await pass_time(redis, 15.5)
        wait_s = (await process.refuse()).wait_s or 0
        await pass_time(redis, wait_s - 0.5)
        await process.refuse()
        await pass_time(redis, 0.6)
        await process.take()


THREE = PoolTerms(breaker_failures=3, breaker_open_s=10.0)


async def test_the_breaker_opens_after_so_many_failures_in_a_row(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B, terms=THREE) as process:
        for fault in (Fault.UPSTREAM_ERROR, Fault.READ_TIMEOUT, None, Fault.CONNECT_FAILED, Fault.ANSWER_LOST):
            await process.pool.release(await process.take(), Report(fault))
        assert {} == await ill(process)
        await fail(process, Fault.UPSTREAM_ERROR)
        assert {"": State.COOLING} == await ill(process)
        refused = await process.refuse(patience_s=60)
        assert not refused.is_busy
        assert refused.wait_s == pytest.approx(10, abs=1)


async def test_the_breaker_lets_one_probe_through_and_closes_after_its_success(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B, terms=THREE) as process:
        for _ in range(3):
            await fail(process, Fault.UPSTREAM_ERROR)
        await pass_time(redis, 10)
        probe = await process.take()
        await process.refuse()
        await process.pool.release(probe, Report(images=1))
        assert {} == await ill(process)
        for _ in range(3):
            await process.take()


async def test_the_breaker_stays_open_longer_where_its_probe_fails(redis_url: str) -> None:
    waits = []
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for _ in range(3):
            await fail(process, Fault.UPSTREAM_ERROR)
        for _ in range(4):
            waits.append(round((await process.refuse()).wait_s or 0))
            await pass_time(redis, 60)
            await fail(process, Fault.UPSTREAM_ERROR)
    assert [10, 20, 40, 60] == waits


async def test_old_calls_that_hang_open_no_breaker_that_was_closed_since(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, B, terms=THREE) as process:
        hanging = [await process.take() for _ in range(20)]
        for lease in hanging[:3]:
            await process.pool.release(lease, Report(Fault.READ_TIMEOUT))
        await pass_time(redis, 10)
        probe = await process.take()
        for lease in hanging[3:8]:
            await process.pool.release(lease, Report(Fault.READ_TIMEOUT))
        await process.pool.release(probe, Report(images=1))
        for lease in hanging[8:]:
            await process.pool.release(lease, Report(Fault.READ_TIMEOUT))
        assert {} == await ill(process)


async def test_one_refused_key_is_no_alarm(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        with capture_logs() as logs:
            await fail(process, Fault.KEY_INVALID, "a/a-2", "b/")
            await fail(process, Fault.KEY_INVALID, "a/a-1", "b/")
            await succeed(process)
        assert {"a/a-1": State.QUARANTINED, "a/a-2": State.QUARANTINED} == await ill(process)
    assert [] == [line for line in logs if line["event"] == "configuration_alarm"]


async def test_the_only_key_of_an_upstream_is_no_alarm(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, Fault.KEY_INVALID)
        assert {"b/b-1": State.QUARANTINED} == await ill(process)


async def test_all_keys_refused_at_once_are_one_alarm_and_recover_together(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        with capture_logs() as logs:
            leases = [await process.take() for _ in range(9)]
            for lease in leases:
                await process.pool.release(lease, Report(Fault.KEY_INVALID))
        assert {"": State.QUARANTINED} == await ill(process)
        assert not (await process.refuse()).is_busy
        await pass_time(redis, 60)
        await succeed(process)
        assert {} == await ill(process)
    assert 1 == sum(line["event"] == "configuration_alarm" for line in logs)


async def test_keys_that_a_person_took_out_are_not_waited_for_to_raise_the_alarm(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        await process.roster.hold("sim", "b", None, State.DISABLED, PERSON)
        for _ in range(2):
            await fail(process, Fault.KEY_INVALID)
        assert {"": State.QUARANTINED, "b": State.DISABLED} == await ill(process)


@pytest.mark.parametrize("state", [State.DISABLED, State.DRAINING])
async def test_what_a_person_took_out_is_not_used_and_what_it_does_goes_on(any_redis: str, state: State) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        under_way = await process.take(avoided=("b/", "a/a-2"))
        await process.roster.hold("sim", "a", "a-1", state, PERSON)
        assert {"a/a-1": state} == await ill(process)
        assert "ann" == (await standings(process))["a/a-1"].held_by
        assert {"a-2", "b-1"} == {(await process.take()).key.name for _ in range(8)}
        await process.roster.hold("sim", "b", None, state, PERSON)
        assert {"a-2"} == {(await process.take()).key.name for _ in range(3)}
        await process.pool.release(under_way, Report(images=1))
        await process.roster.hold("sim", "a", "a-1", State.READY, PERSON)
        await process.roster.hold("sim", "b", None, State.READY, PERSON)
        assert {"a-1", "a-2", "b-1"} == {(await process.take()).key.name for _ in range(9)}


async def test_retries_are_a_fifth_of_the_calls_of_a_minute(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        for _ in range(50):
            await succeed(process)
        again = [await process.ask(repeat=Repeat.OF_ILL_UPSTREAM) for _ in range(40)]
    granted = sum(isinstance(one, Lease) for one in again)
    assert 12 == pytest.approx(granted, abs=1)
    assert not any(one.is_busy for one in again if isinstance(one, NoKey))


async def test_three_retries_a_minute_are_allowed_however_few_calls_there_are(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, A) as process:
        again = [await process.ask(repeat=Repeat.OF_ILL_UPSTREAM) for _ in range(6)]
        assert 3 == sum(isinstance(one, Lease) for one in again)
        await process.take(repeat=Repeat.OF_BAD_KEY)
        await pass_time(redis, 120)
        await process.take(repeat=Repeat.OF_ILL_UPSTREAM)


async def test_every_change_of_a_state_is_counted_once(any_redis: str) -> None:
    """Whoever sees it first: also who only looks."""
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        first, second = await process.take(), await process.take()
        await process.pool.release(first, Report(Fault.ACCOUNT_RATE_LIMITED))
        await process.pool.release(second, Report(Fault.ACCOUNT_RATE_LIMITED))
        await process.refuse()
        await pass_time(redis, 60)
        for _ in range(2):
            await process.pool.look()
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
        await fail(process, Fault.KEY_MONTH_SPENT)
        assert await redis.ttl(record("sim", "health")) > 31 * 86_400


async def test_a_pool_that_is_used_does_not_forget_its_accounts(any_redis: str) -> None:
    """What expires when it is idle lives on with every minute in which it is used."""
    names = [record("sim", name) for name in ("roster", "declared", "meta", "loads")]
    async with connected(any_redis) as redis, pooling(redis, B) as process:
        await succeed(process)
        for name in names:
            await redis.expire(name, 100)
        await pass_time(redis, 60)
        await succeed(process)
        assert [] == [name for name in names if await redis.ttl(name) < 30 * 86_400]


async def test_no_secret_is_in_redis_and_all_that_is_transient_ends(any_redis: str) -> None:
    """Of everything that a pool writes: only what people said stays."""
    secret = make_secret("sk-very-secret-value")
    mine = Account("sim", "a", A.limits, (UpstreamKey("sim", "a", "a-1", secret),))
    async with connected(any_redis) as redis, pooling(redis, mine, B) as process:
        await process.roster.hold("sim", "b", None, State.DRAINING, PERSON)
        await fail(process, Fault.KEY_INVALID)
        await process.refuse()
        names = [str(name) async for name in redis.scan_iter("ig2:*pool*")]
        assert 8 < len(names)
        staying = {name.rpartition(":")[2] for name in names if await redis.ttl(name) < 0}
        dumps = [await redis.eval("return string.format('%q', redis.call('DUMP', KEYS[1]))", 1, name) for name in names]
        assert [] == await left_over(redis)
    assert {"held", "audit"} == staying
    assert "sk-very-secret-value" not in " ".join(str(text) for text in dumps)


async def test_a_refused_call_is_no_failure_of_the_upstream(redis_url: str) -> None:
    """The table and the breaker agree on what tells of a working upstream."""
    assert [] == [fault for fault, row in TABLE.items() if row.ails_upstream and row.outcome is Outcome.DELIVERED]
    async with connected(redis_url) as redis, pooling(redis, B, terms=THREE) as process:
        for fault in (Fault.UPSTREAM_ERROR, Fault.UPSTREAM_ERROR, Fault.CONTENT_INPUT, Fault.UPSTREAM_ERROR):
            await fail(process, fault)
        assert {} == await ill(process)
