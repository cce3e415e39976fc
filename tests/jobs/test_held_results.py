"""Results in memory until they are stored: with a real Redis, and a bucket whose writes the test can hold."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import redis

from gateway.domain.images import Base64Image, ImageResult, Size
from gateway.generation.context import OrderNumbers
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs import held_results
from gateway.jobs.held_results import HeldResult, HeldResults
from gateway.jobs.outcomes import Outcomes, StorageLimits
from gateway.observability.metrics import Metrics
from gateway.storage.pictures import PictureStore
from gateway.storage.quota import StorageQuota, StorageTerms
from tests.support.admissions import connected
from tests.support.bucket import Bucket, bucketing
from tests.support.storing import in_bucket, opened

pytestmark = pytest.mark.anyio

NUMBERS: Final = OrderNumbers(20, 1)
NO_ROOM: Final = StorageLimits(600, 0, 0, 0)
BUDGET_BYTES: Final = 100_000
_PATIENCE_S: Final = 30


@pytest.fixture(scope="module")
def running_bucket() -> Iterator[Bucket]:
    with bucketing() as bucket:
        yield bucket


@pytest.fixture
def bucket(running_bucket: Bucket) -> Bucket:
    running_bucket.writes.set()
    running_bucket.objects.clear()
    running_bucket.held, running_bucket.is_away = 0, False
    return running_bucket


class Process:
    """The jobs of one gateway process."""

    def __init__(self, outcomes: Outcomes, held: HeldResults, budget: ByteBudget) -> None:
        self.outcomes, self.held, self.budget = outcomes, held, budget

    def hold(self, order_id: str, size: int = 300, *, is_owed: bool = True, kept_s: float = 86_400) -> bool:
        image = b64encode(b"\x89PNG\r\n\x1a\n" + order_id.encode() + b"." * size)
        result = ImageResult((Base64Image(memoryview(image)),), Size(8, 8), 1)
        return self.held.hold(HeldResult("acme", order_id, result, NUMBERS, kept_s), is_owed=is_owed)

    async def state(self, order_id: str) -> str:
        return (await self.outcomes.poll("acme", order_id, 0)).state

    async def has_ended(self, order_id: str) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while await self.state(order_id) != "ended":  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.02)


@asynccontextmanager
async def process(redis_url: str, bucket: Bucket, limits: StorageLimits = NO_ROOM) -> AsyncIterator[Process]:
    async with connected(redis_url) as client:
        budget, metrics = ByteBudget(BUDGET_BYTES), Metrics()
        quota = StorageQuota(client, StorageTerms(24, 1_000_000))
        objects = opened(in_bucket(bucket.url, bucket="bucket"))
        outcomes = Outcomes(client, limits, PictureStore(objects, quota, budget, metrics, 20))
        yield Process(outcomes, HeldResults(outcomes, client, "c", budget), budget)


async def test_a_result_is_in_memory_until_it_is_stored_and_then_only_in_the_storage(
    redis_url: str, bucket: Bucket
) -> None:
    bucket.writes.clear()
    async with process(redis_url, bucket) as one:
        assert one.hold("r1")
        held = one.held.get("r1")
        task = one.held.store("r1")
        assert task is one.held.store("r1")
        assert task
        assert held
        await asyncio.sleep(0.1)
        assert (held, held.result.held_bytes) == (one.held.get("r1"), held.account.held_bytes)
        assert one.budget.held_bytes >= held.account.held_bytes
        bucket.writes.set()
        await task
        assert (None, 0) == (one.held.get("r1"), one.budget.held_bytes)
        status = await one.outcomes.poll("acme", "r1", 0)
        assert (held.result, NUMBERS) == await one.outcomes.load("acme", "r1", status, ByteAccount())
    assert 1 == len(bucket.objects)


async def test_a_result_that_is_not_owed_is_stored_only_if_asked_for(redis_url: str, bucket: Bucket) -> None:
    async with process(redis_url, bucket) as one:
        one.hold("r1", is_owed=False)
        await one.held.flush()
        assert ("free", {}) == (await one.state("r1"), bucket.objects)
        listening = asyncio.ensure_future(one.held.listen())
        with redis.Redis.from_url(redis_url) as other:
            await until(lambda: bool(other.publish("c", "r1")))
        await one.has_ended("r1")
        listening.cancel()
    assert 1 == len(bucket.objects)


async def test_results_that_are_not_owed_make_room_for_others_and_owed_ones_do_not(
    redis_url: str, bucket: Bucket
) -> None:
    bucket.writes.clear()
    async with process(redis_url, bucket) as one:
        for number in range(5):
            assert one.hold(f"idle-{number}", 2000, is_owed=False)
        assert [None, None, None] == [one.held.get(f"idle-{number}") for number in range(3)]
        assert one.held.get("idle-4")
        assert [True, True, False, True] == [
            one.hold(f"owed-{number}", size) for number, size in enumerate((3700, 3700, 3700, 300))
        ]
        assert one.budget.held_bytes < BUDGET_BYTES * 3 // 16
        bucket.writes.set()
        await one.held.flush()
        assert ["ended", "ended", "free", "ended"] == [await one.state(f"owed-{number}") for number in range(4)]
        assert one.held.get("idle-4")


async def test_a_storage_that_is_back_soon_gets_what_is_owed(redis_url: str, bucket: Bucket) -> None:
    bucket.is_away = True
    async with process(redis_url, bucket) as one:
        one.hold("r1")
        task = one.held.store("r1")
        assert task
        await until(lambda: bucket.held > 0)
        assert "free" == await one.state("r1")
        bucket.is_away = False
        await task
        assert "ended" == await one.state("r1")
    assert 1 == len(bucket.objects)


async def test_images_that_cannot_be_stored_stay_in_memory_as_long_as_others(
    redis_url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_results, "HELD_S", 0.5)
    monkeypatch.setattr(held_results, "_PAUSES_S", (0.0, 0.1))
    image = ImageResult((Base64Image(memoryview(b"not an image")),), Size(8, 8), 1)
    async with process(redis_url, bucket) as one:
        one.held.hold(HeldResult("acme", "r1", image, NUMBERS, 60), is_owed=True)
        task = one.held.store("r1")
        assert task
        await task
        assert ("ended", True) == (await one.state("r1"), one.held.get("r1") is not None)
        await until(lambda: one.held.get("r1") is None)
        assert (None, 0) == (one.held.get("r1"), one.budget.held_bytes)


async def test_what_is_owed_and_was_never_asked_for_is_stored_when_its_time_is_over(
    redis_url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_results, "HELD_S", 0.2)
    async with process(redis_url, bucket) as one:
        one.hold("r1")
        one.hold("r2", is_owed=False)
        await one.has_ended("r1")
        await until(lambda: not (one.held.get("r1") or one.held.get("r2")))
        assert ("free", 0) == (await one.state("r2"), one.budget.held_bytes)
    assert 1 == len(bucket.objects)
