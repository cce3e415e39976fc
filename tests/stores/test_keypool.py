import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.domain.faults import Fault, GatewayError, State
from gateway.domain.keys import UpstreamKey
from gateway.settings import make_secret
from gateway.stores import connect
from gateway.stores.keypool import KeyPool, KeyStatus, Lease, NoKey

pytestmark = pytest.mark.anyio

MODEL = "image-01"
TIMEOUT_S = 2.0


def key(account: str, name: str, upstream: str = "sim", secret: str | None = None) -> UpstreamKey:
    return UpstreamKey(upstream, account, name, make_secret(secret or name))


A1, A2, B1 = key("a", "a-1"), key("a", "a-2"), key("b", "b-1")
KEYS = (A1, A2, B1)


@asynccontextmanager
async def pooling(
    url: str, *keys: UpstreamKey, clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple[KeyPool, Redis]]:
    redis = connect(url, TIMEOUT_S)
    try:
        yield KeyPool(redis, keys or KEYS, clock), redis
    finally:
        await redis.aclose()


async def take(pool: KeyPool, *avoided: str, model: str = MODEL, upstream: str = "sim") -> Lease:
    lease = await pool.lease(upstream, model, avoided)
    assert isinstance(lease, Lease)
    return lease


async def refuse(pool: KeyPool, *avoided: str, model: str = MODEL) -> NoKey:
    nothing = await pool.lease("sim", model, avoided)
    assert isinstance(nothing, NoKey)
    return nothing


async def end_rests(redis: Redis) -> None:
    """Move every rest's end into the past, as time would."""
    async for name in redis.scan_iter("*:turns"):
        for member in await redis.zrange(name, 0, -1):
            await redis.zadd(name, {str(member): 1})
    async for name in redis.scan_iter("*:rests"):
        for field, text in (await redis.hgetall(name)).items():
            rest = msgspec.json.decode(text, type=dict[str, object]) | {"since_us": 1, "until_us": 2}
            await redis.hset(name, field, msgspec.json.encode(rest).decode())


async def states(pool: KeyPool) -> dict[str, State]:
    return {status.key.name: status.state for status in await pool.statuses()}


async def status_of(pool: KeyPool, name: str) -> KeyStatus:
    return next(status for status in await pool.statuses() if status.key.name == name)


async def test_keys_are_used_in_turn(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, _):
        first = [(await take(pool)).key.name for _ in range(3)]
        second = [(await take(pool)).key.name for _ in range(3)]
    assert {"a-1", "a-2", "b-1"} == set(first)
    assert first == second


async def test_concurrent_leases_over_two_pools_spread_evenly_over_the_keys(each_redis: str) -> None:
    """Two clients stand for two processes: the turn is kept in Redis and nowhere else."""
    used: Counter[str] = Counter()

    async def lease(pool: KeyPool) -> None:
        used[(await take(pool)).key.name] += 1

    async with pooling(each_redis) as (one, _), pooling(each_redis) as (other, _):
        for _ in KEYS:
            await take(one)
        async with anyio.create_task_group() as group:
            for pool in (one, other) * 45:
                group.start_soon(lease, pool)
    assert 90 == used.total()
    assert {29, 30, 31} >= set(used.values())


async def test_the_first_requests_of_all_all_find_a_key(each_redis: str) -> None:
    """Many at once meet a pool that Redis does not know yet: whoever fills it, nobody is sent away."""
    found: list[Lease | NoKey] = []

    async def lease(pool: KeyPool) -> None:
        found.append(await pool.lease("sim", MODEL))

    async with pooling(each_redis) as (one, _), pooling(each_redis) as (other, _), anyio.create_task_group() as group:
        for pool in (one, other) * 20:
            group.start_soon(lease, pool)
    assert [] == [nothing for nothing in found if isinstance(nothing, NoKey)]


async def test_more_keys_than_one_page_of_the_script_are_all_used(each_redis: str) -> None:
    many = [key("a", f"k-{number:02}") for number in range(40)]
    async with pooling(each_redis, *many) as (pool, _):
        used = {(await take(pool)).key.name for _ in many}
    assert {one.name for one in many} == used


async def test_a_page_of_avoided_keys_does_not_hide_the_free_ones(each_redis: str) -> None:
    many = [key("a", f"k-{number:02}") for number in range(40)]
    async with pooling(each_redis, *many) as (pool, _):
        lease = await take(pool, *(one.id for one in many[:39]))
    assert "k-39" == lease.key.name


@pytest.mark.parametrize(
    ("avoided", "left"),
    [((), {"a-1", "a-2", "b-1"}), (("a/a-1",), {"a-2", "b-1"}), (("a/",), {"b-1"}), (("b/", "a/a-2"), {"a-1"})],
)
async def test_avoided_keys_and_accounts_are_passed_over(
    each_redis: str, avoided: tuple[str, ...], left: set[str]
) -> None:
    async with pooling(each_redis) as (pool, _):
        assert left == {(await take(pool, *avoided)).key.name for _ in range(6)}


async def test_a_job_that_used_up_every_key_has_nothing_to_wait_for(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, _):
        assert NoKey(None, is_busy=False) == await refuse(pool, "a/", "b/")


RESTS: dict[Fault, tuple[set[str], State, int, int]] = {
    Fault.ACCOUNT_RATE_LIMITED: ({"a-1", "a-2"}, State.COOLING, 15, 60),
    Fault.ACCOUNT_TOKEN_LIMITED: ({"a-1", "a-2"}, State.COOLING, 60, 60),
    Fault.ACCOUNT_CONNECTION_LIMITED: ({"a-1", "a-2"}, State.COOLING, 5, 15),
    Fault.ACCOUNT_GROWTH_LIMITED: ({"a-1", "a-2"}, State.COOLING, 10, 30),
    Fault.KEY_INVALID: ({"a-1"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_UNVERIFIED: ({"a-1", "a-2"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_MODEL_DENIED: ({"a-1"}, State.QUARANTINED, 600, 1800),
    Fault.KEY_LIMIT_REACHED: ({"a-1"}, State.QUARANTINED, 600, 1800),
    Fault.BALANCE_EMPTY: ({"a-1", "a-2"}, State.QUARANTINED, 600, 1800),
    Fault.EGRESS_DENIED: ({"a-1", "a-2", "b-1"}, State.QUARANTINED, 600, 1800),
    Fault.UPSTREAM_NO_CHANNEL: ({"a-1", "a-2", "b-1"}, State.COOLING, 30, 60),
    Fault.WINDOW_SPENT: ({"a-1", "a-2"}, State.COOLING, 18_000, 18_000),
    Fault.KEY_HOUR_SPENT: ({"a-1"}, State.COOLING, 3_600, 3_600),
    Fault.DAY_SPENT: ({"a-1", "a-2"}, State.COOLING, 1, 86_400),
    Fault.KEY_DAY_SPENT: ({"a-1"}, State.COOLING, 1, 86_400),
    Fault.KEY_MONTH_SPENT: ({"a-1"}, State.COOLING, 1, 31 * 86_400),
}
"""Who rests after a fault of key a-1, how, and for how many seconds (reference/minimax.md sections 3 and 5.3)."""


@pytest.mark.parametrize("fault", RESTS, ids=lambda fault: fault.value)
async def test_a_fault_puts_exactly_those_to_rest_that_it_concerns(each_redis: str, fault: Fault) -> None:
    resting, state, shortest_s, longest_s = RESTS[fault]
    async with pooling(each_redis) as (pool, _):
        before = time.time()
        await pool.release(await take(pool, "a/a-2", "b/"), fault)
        assert {name: state if name in resting else State.READY for name in ("a-1", "a-2", "b-1")} == await states(pool)
        told = await status_of(pool, "a-1")
    assert fault.value == told.fault
    assert (MODEL if fault is Fault.KEY_MODEL_DENIED else None) == told.model
    assert told.until_s is not None
    assert before + shortest_s - 2 <= told.until_s <= time.time() + longest_s + 1


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in RESTS], ids=lambda fault: fault.value)
async def test_a_fault_of_no_key_puts_none_to_rest(redis_url: str, fault: Fault) -> None:
    async with pooling(redis_url) as (pool, _):
        await pool.release(await take(pool), fault)
        assert {State.READY} == set((await states(pool)).values())


async def test_a_resting_account_is_not_leased_while_another_is(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, _):
        await pool.release(await take(pool, "b/"), Fault.ACCOUNT_RATE_LIMITED)
        assert {"b-1"} == {(await take(pool)).key.name for _ in range(4)}


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
    each_redis: str, fault: Fault, *, is_busy: bool
) -> None:
    async with pooling(each_redis, A1) as (pool, _):
        await pool.release(await take(pool), fault)
        nothing = await refuse(pool)
        until_s = (await status_of(pool, "a-1")).until_s
    assert is_busy == nothing.is_busy
    assert nothing.wait_s is not None
    assert until_s is not None
    assert nothing.wait_s == pytest.approx(until_s - time.time(), abs=5)


async def test_a_model_that_a_key_may_not_make_leaves_its_other_models_alone(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, _):
        await pool.release(await take(pool), Fault.KEY_MODEL_DENIED)
        assert not (await refuse(pool)).is_busy
        assert "a-1" == (await take(pool, model="image-01-live")).key.name


async def test_a_rest_that_has_ended_frees_the_key_and_its_first_success_clears_the_record(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, redis):
        await pool.release(await take(pool), Fault.KEY_INVALID)
        await end_rests(redis)
        lease = await take(pool)
        assert lease.was_resting
        await pool.release(lease, None)
        assert not (await take(pool)).was_resting


async def test_a_model_rest_that_has_ended_is_cleared_by_a_success_too(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, redis):
        await pool.release(await take(pool), Fault.KEY_MODEL_DENIED)
        await end_rests(redis)
        await pool.release(await take(pool), None)
        assert not (await take(pool)).was_resting


async def test_a_rest_only_moves_outward(each_redis: str) -> None:
    """Two calls of one account end in different faults: the longer rest stays, whichever is told last."""
    async with pooling(each_redis, A1) as (pool, _):
        first, second = await take(pool), await take(pool)
        await pool.release(first, Fault.WINDOW_SPENT)
        before = (await status_of(pool, "a-1")).until_s
        await pool.release(second, Fault.ACCOUNT_RATE_LIMITED)
        assert before == (await status_of(pool, "a-1")).until_s
        assert ((await refuse(pool)).wait_s or 0) > 17_000


@pytest.mark.parametrize("fault", [Fault.ACCOUNT_RATE_LIMITED, Fault.KEY_MODEL_DENIED, Fault.KEY_INVALID])
async def test_a_success_that_was_leased_before_a_new_rest_does_not_cut_it_short(each_redis: str, fault: Fault) -> None:
    """Two calls with a key that came back; one fails anew, then the other succeeds: the new rest holds."""
    async with pooling(each_redis, A1) as (pool, redis):
        await pool.release(await take(pool), fault)
        await end_rests(redis)
        succeeding, failing = await take(pool), await take(pool)
        await pool.release(failing, fault)
        await pool.release(succeeding, None)
        assert fault.value == (await status_of(pool, "a-1")).fault
        assert (fault is Fault.ACCOUNT_RATE_LIMITED) == (await refuse(pool)).is_busy


async def test_a_pause_that_the_upstream_asks_for_lengthens_the_rest(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, _):
        await pool.release(await take(pool), Fault.ACCOUNT_RATE_LIMITED, 120.0)
        assert 119 < ((await refuse(pool)).wait_s or 0) <= 121


async def test_a_pause_that_the_upstream_asks_for_does_not_shorten_the_rest(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, _):
        await pool.release(await take(pool), Fault.ACCOUNT_TOKEN_LIMITED, 1.0)
        assert ((await refuse(pool)).wait_s or 0) > 55


async def test_every_transient_key_outlives_the_rests_in_it(each_redis: str) -> None:
    """A month's quota spent on the first: Redis must not forget it before the month ends."""
    now = datetime(2027, 1, 1, 0, 0, 5, tzinfo=UTC).timestamp()
    async with pooling(each_redis, A1, clock=lambda: now) as (pool, redis):
        await pool.release(await take(pool), Fault.KEY_MONTH_SPENT)
        kept_s = {name.rpartition(":")[2]: await redis.ttl(name) async for name in redis.scan_iter("ig2:{pool:*")}
    assert {"turns", "rests"} == set(kept_s)
    assert [] == [name for name, ttl_s in kept_s.items() if ttl_s < 30 * 86_400]


async def test_every_key_in_redis_is_transient_and_of_one_slot(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, redis):
        await pool.release(await take(pool), Fault.KEY_INVALID)
        names = [name async for name in redis.scan_iter("*")]
        assert [] == [name for name in names if await redis.ttl(name) <= 0]
    assert 2 == len(names)
    assert 1 == len({name.partition("{")[2].partition("}")[0] for name in names})


async def test_no_secret_is_in_redis(each_redis: str) -> None:
    spied = key("a", "a-1", secret="sk-very-secret-value")
    async with pooling(each_redis, spied) as (pool, redis):
        await pool.release(await take(pool), Fault.KEY_INVALID)
        seen = [name async for name in redis.scan_iter("*")]
        for name in list(seen):
            kind = await redis.type(name)
            seen.append(str(await (redis.hgetall(name) if kind == "hash" else redis.zrange(name, 0, -1))))
    assert "sk-very-secret-value" not in " ".join(seen)


async def test_a_mended_secret_starts_with_a_clean_record(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, _):
        await pool.release(await take(pool), Fault.KEY_INVALID)
    async with pooling(each_redis, key("a", "a-1", secret="another")) as (pool, _):
        assert "a-1" == (await take(pool)).key.name


async def test_another_pool_of_the_same_keys_sees_the_rest(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (one, _), pooling(each_redis, A1) as (other, _):
        await one.release(await take(one), Fault.BALANCE_EMPTY)
        assert {"a-1": State.QUARANTINED} == await states(other)
        assert not (await refuse(other)).is_busy


async def test_upstreams_do_not_share_rests_even_with_keys_of_the_same_names(each_redis: str) -> None:
    async with pooling(each_redis, A1, key("a", "a-1", upstream="other")) as (pool, _):
        await pool.release(await take(pool), Fault.KEY_INVALID)
        assert "other" == (await take(pool, upstream="other")).key.upstream


async def test_a_pool_that_redis_has_lost_is_filled_again(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, redis):
        await take(pool)
        await redis.flushall()
        assert {"a-1", "a-2", "b-1"} == {(await take(pool)).key.name for _ in range(3)}


async def test_a_pool_survives_a_script_flush(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, redis):
        lease = await take(pool)
        await redis.script_flush()
        await pool.release(lease, Fault.KEY_INVALID)
        assert {"a-1": State.QUARANTINED} == await states(pool)


async def test_the_record_of_an_unknown_fault_of_another_version_is_no_rate_limit(each_redis: str) -> None:
    async with pooling(each_redis, A1) as (pool, redis):
        await pool.release(await take(pool), Fault.ACCOUNT_RATE_LIMITED)
        async for name in redis.scan_iter("*:rests"):
            record = await redis.hget(name, A1.id)
            await redis.hset(name, A1.id, str(record).replace("account_rate_limited", "from_the_future"))
        assert not (await refuse(pool)).is_busy


async def test_a_healthy_release_costs_no_round_trip(each_redis: str) -> None:
    async with pooling(each_redis) as (pool, redis):
        lease = await take(pool)
        await redis.aclose()
        before = (await redis.info("stats"))["total_commands_processed"]
        await pool.release(lease, None)
        assert before + 1 == (await redis.info("stats"))["total_commands_processed"]


async def test_without_redis_a_lease_is_a_fault_of_the_gateway() -> None:
    async with pooling("unix:///nowhere/redis.sock") as (pool, _):
        with pytest.raises(GatewayError) as caught:
            await pool.lease("sim", MODEL)
    assert Fault.REDIS_AWAY is caught.value.fault


async def test_a_busy_account_rests_twice_as_long_each_time_until_a_success(each_redis: str) -> None:
    """15 s, doubled up to 60 (reference/minimax.md section 3, code 1002)."""
    waits = []
    async with pooling(each_redis, A1) as (pool, redis):
        for _ in range(4):
            await pool.release(await take(pool), Fault.ACCOUNT_RATE_LIMITED)
            waits.append(round((await refuse(pool)).wait_s or 0))
            await end_rests(redis)
        await pool.release(await take(pool), None)
        await pool.release(await take(pool), Fault.ACCOUNT_RATE_LIMITED)
        waits.append(round((await refuse(pool)).wait_s or 0))
    assert [15, 30, 60, 60, 15] == waits


async def test_a_shorter_rest_does_not_hide_the_reason_of_a_longer_one(each_redis: str) -> None:
    """An account without balance is not merely busy, although one of its calls was told so later."""
    async with pooling(each_redis, A1) as (pool, redis):
        first = await take(pool)
        await end_rests(redis)
        second = await take(pool)
        await pool.release(first, Fault.BALANCE_EMPTY)
        await pool.release(second, Fault.ACCOUNT_RATE_LIMITED)
        assert not (await refuse(pool)).is_busy
        assert [Fault.BALANCE_EMPTY.value] == [status.fault for status in await pool.statuses()]
