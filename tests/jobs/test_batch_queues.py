"""What batches leave in Redis: the list of open ones of all tenants, the events of their ends, and their records."""

import time
from collections import Counter

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.jobs.batch_turns import BatchTurns
from gateway.jobs.batches import Batch, BatchLimits, BatchStatus, BatchStore, LineError, new_batch_id
from gateway.redis import execute
from tests.support.admissions import connected

pytestmark = pytest.mark.anyio


def batch(tenant: str = "acme", status: BatchStatus = BatchStatus.VALIDATING) -> Batch:
    return Batch(
        id=new_batch_id(),
        tenant=tenant,
        key_id="k",
        endpoint="/v1/images/generations",
        input_file_id="file-1",
        created_at=1,
        expires_at=2,
        output_kept_s=3600,
        status=status,
        completed_at=int(time.time()) if status is BatchStatus.COMPLETED else None,
    )


async def test_the_open_batches_of_all_tenants_are_limited(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=2, all_open_max=2))
        first = await store.create(batch("one"))
        await store.create(batch("two"))
        with pytest.raises(GatewayError, match="open batches of this server") as caught:
            await store.create(batch("three"))
        assert ErrorCode.RATE_LIMITED is caught.value.error_code
        assert 2 == len(await store.open_batches())
        assert [True, False] == [await store.drop("one", first.id) for _ in range(2)]
        assert "three" == (await store.create(batch("three"))).tenant


async def test_a_dropped_batch_takes_along_no_key_that_a_later_batch_uses(redis_url: str) -> None:
    """A key is remembered for a day, a failed batch for a week: the key may have been used again meanwhile."""
    async with connected(redis_url) as redis:
        store, identity = BatchStore(redis, BatchLimits(open_max=9, kept_max=2)), ("key", "fingerprint")
        old = await store.create(batch(), identity)
        assert await store.advance(old, BatchStatus.FAILED, time.time())
        await execute(redis, redis.delete(*store.keys("acme", "idempotency:batches:key")), int)  # it has expired
        new = await store.create(batch(), identity)
        await store.create(batch())  # drops the old one
        assert None is await store.find("acme", old.id)
        assert new.id == (await store.create(batch(), identity)).id


async def test_a_refused_create_leaves_nothing_in_the_list_of_all_tenants(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=1))
        await store.create(batch(), ("key", "print"))
        for identity, code in ((None, ErrorCode.RATE_LIMITED), (("key", "other"), ErrorCode.IDEMPOTENCY_KEY_REUSED)):
            with pytest.raises(GatewayError) as caught:
                await store.create(batch(), identity)
            assert code is caught.value.error_code
        await store.create(batch(), ("key", "print"))
        assert 1 == len(await store.open_batches())


def test_a_tenant_with_many_batches_delays_no_other() -> None:
    turns, many = BatchTurns(), [("many", f"{number}") for number in range(1000)]
    seen = Counter[tuple[str, str]]()
    for _ in range(21):
        taken = turns.take([*many, ("one", "a")], 50)
        assert 50 == len(set(taken))
        seen.update(taken)
    assert 21 == seen["one", "a"]
    assert {1, 2} == {seen[batch] for batch in many}


def test_batches_that_fit_are_looked_at_in_their_order_and_tenants_in_turns() -> None:
    turns = BatchTurns()
    assert [("a", "1")] == turns.take([("a", "1")], 50)
    first, second = (turns.take([("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")], 50) for _ in range(2))
    assert [("a", "1"), ("b", "3"), ("a", "2"), ("b", "4")] == first
    assert [("b", "3"), ("a", "1"), ("b", "4"), ("a", "2")] == second


async def test_the_records_of_a_tenant_have_a_limit_of_bytes(redis_url: str) -> None:
    """Errors of a failed batch are cut, and the oldest ended ones make room."""
    errors = [LineError("invalid_request", "\U0001f600" * 100, number) for number in range(100)]
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=3, kept_bytes=100_000))
        kept_open, made = await store.create(batch()), list[Batch]()
        for number in range(10):
            made.append(await store.create(batch(), (f"key{number}", "print")))
            await store.advance(made[-1], BatchStatus.FAILED, 1, errors=errors)
        found = [await store.find("acme", one.id) for one in made]
        kept = [one for one in found if one]
        assert kept_open == await store.find("acme", kept_open.id)
        assert [one.id for one in made[-len(kept) :]] == [one.id for one in kept]
        assert 4 <= len(kept) <= 6
        assert tuple(errors[: len(kept[0].errors)]) == kept[0].errors
        assert 15_000 < len(str(kept[0].errors).encode()) < 24_000
        bytes_key, key = store.keys("acme", "batches_bytes", f"idempotency:batches:key{0}")
        sizes = await execute(redis, redis.hgetall(bytes_key), dict[str, int])
        assert int(sizes.pop("total")) == sum(map(int, sizes.values())) <= 120_000
        assert {kept_open.id, *(one.id for one in kept)} == set(sizes)
        assert 0 == await execute(redis, redis.exists(key), int)


async def test_open_batches_that_fill_the_records_refuse_another(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=30, kept_max=2))
        made = [await store.create(batch()) for _ in range(2)]
        with pytest.raises(GatewayError, match="open batches"):
            await store.create(batch())
        await store.advance(made[0], BatchStatus.FAILED, 1)
        await store.create(batch())
        assert None is await store.find("acme", made[0].id)


async def test_a_page_of_large_records_is_short_and_counted(redis_url: str) -> None:
    taken = list[int]()
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=100))
        small = [await store.create(batch()) for _ in range(2)]
        for one in small:
            [key] = store.keys("acme", "batches_bytes")
            await execute(redis, redis.hset(key, one.id, str(300_000)), object)
        found, has_more = await store.list_page("acme", 100, None, taken.append)
        assert ([small[1].id], True) == ([one.id for one in found], has_more)
        found, has_more = await store.list_page("acme", 100, found[0].id, taken.append)
        assert ([small[0].id], False) == ([one.id for one in found], has_more)
    assert [1_200_000] * 2 == taken


async def test_an_id_is_not_another_redis_key(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=2))
        [key] = store.keys("acme", f"batch:{(made := await store.create(batch())).id}:index")
        await execute(redis, redis.set(key, "x"), object)
        for batch_id in (f"{made.id}:index", made.id.upper(), f"{made.id}\n"):
            assert None is await store.find("acme", batch_id)
