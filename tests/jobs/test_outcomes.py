"""Stored outcomes on a real Redis: what is stored is what is loaded, within limits that end."""

from typing import Final

import pytest
import redis

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, Picture, Size
from gateway.generation.context import OrderNumbers
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs.outcomes import Outcomes, StorageLimits
from tests.support.admissions import connected
from tests.support.clocked import Clock, clocked_script

pytestmark = pytest.mark.anyio

LIMITS: Final = StorageLimits(600, 1000, 10_000, 100_000)
NUMBERS: Final = OrderNumbers(20, 2, ("user",))


def result(*pictures: Picture) -> ImageResult:
    return ImageResult(pictures, Size(1024, 768), 3, "id-1", 1_785_000_000)


def encoded(size: int, letter: bytes = b"A") -> Base64Image:
    return Base64Image(memoryview(letter * size))


async def store(outcomes: Outcomes, order_id: str, outcome: ImageResult | GatewayError) -> None:
    images = None
    if isinstance(outcome, ImageResult):
        images = await outcomes.store_images("acme", order_id, outcome.pictures, 60)
    await outcomes.store("acme", order_id, outcome, NUMBERS, 60, images)


@pytest.mark.parametrize(
    "outcome",
    [
        result(ImageUrl("https://x.example/1.jpg?a=b&c=\u00e9")),
        result(encoded(400), encoded(300, b"/"), encoded(4, b"=")),
        result(ImageUrl("https://x.example/1.jpg"), encoded(400), ImageUrl("https://x.example/2.jpg")),
    ],
)
async def test_a_result_is_loaded_as_it_was_stored(redis_url: str, outcome: ImageResult) -> None:
    async with connected(redis_url) as client:
        outcomes, memory = Outcomes(client, LIMITS), ByteAccount()
        await store(outcomes, "r1", outcome)
        status = await outcomes.poll("acme", "r1", 0)
        assert "ended" == status.state
        assert (outcome, NUMBERS) == await outcomes.load("acme", "r1", status, memory)
        assert outcome.held_bytes == memory.held_bytes


@pytest.mark.parametrize("code", ErrorCode)
async def test_an_error_is_loaded_as_its_caller_saw_it(redis_url: str, code: ErrorCode) -> None:
    error = GatewayError(code, "for the log, or for the caller", param="prompt", upstream_code=1026)
    async with connected(redis_url) as client:
        outcomes = Outcomes(client, LIMITS)
        await store(outcomes, "r1", error)
        status = await outcomes.poll("acme", "r1", 0)
        loaded, _ = await outcomes.load("acme", "r1", status, ByteAccount())
    assert isinstance(loaded, GatewayError)
    assert (error.row, error.message, error.param, 1026) == (
        loaded.row,
        loaded.message,
        loaded.param,
        loaded.upstream_code,
    )
    assert ("for the log" in status.outcome) == error.row.shows_detail


async def test_an_outcome_without_its_images_says_so(redis_url: str) -> None:
    async with connected(redis_url) as client:
        outcomes = Outcomes(client, LIMITS)
        await store(outcomes, "r1", result(encoded(1001)))
        loaded, _ = await outcomes.load("acme", "r1", await outcomes.poll("acme", "r1", 0), ByteAccount())
    assert isinstance(loaded, GatewayError)
    assert ErrorCode.RESULT_NOT_KEPT is loaded.error_code


async def test_images_are_loaded_within_the_memory_budget(redis_url: str) -> None:
    async with connected(redis_url) as client:
        outcomes = Outcomes(client, LIMITS)
        await store(outcomes, "r1", result(encoded(900)))
        status = await outcomes.poll("acme", "r1", 0)
        with pytest.raises(GatewayError) as refused:
            await outcomes.load("acme", "r1", status, ByteAccount(ByteBudget(1000), "acme"))
    assert ErrorCode.TENANT_MEMORY_FULL is refused.value.error_code


async def test_an_outcome_for_one_request_expires_soon_after_it_was_read(redis_url: str) -> None:
    async with connected(redis_url) as client:
        outcomes = Outcomes(client, LIMITS)
        await store(outcomes, "r1", result(encoded(900)))
        await outcomes.poll("acme", "r1", 0)
        with redis.Redis.from_url(redis_url) as reader:
            assert (60, 600) == (reader.ttl("ig3:{acme}:outcome:r1"), reader.ttl("ig3:{acme}:result:r1"))
            await outcomes.poll("acme", "r1", 10)
            assert 10 >= max(reader.ttl("ig3:{acme}:outcome:r1"), reader.ttl("ig3:{acme}:result:r1"))


async def test_the_room_of_what_was_read_is_given_back_once(redis_url: str) -> None:
    async with connected(redis_url) as client:
        outcomes = Outcomes(client, LIMITS)
        await store(outcomes, "r1", result(encoded(900)))
        await store(outcomes, "r2", result(encoded(800)))
        for _ in range(2):
            status = await outcomes.poll("acme", "r1", 10)
            assert (result(encoded(900)), NUMBERS) == await outcomes.load("acme", "r1", status, ByteAccount())
        with redis.Redis.from_url(redis_url) as reader:
            for name in ("ig3:{acme}:results", "ig3:results"):
                assert 800 == sum(map(int, reader.hvals(name)))


def test_room_is_limited_by_what_was_stored_in_the_retention_time(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        clock, take = Clock(client, 1_785_000_000.0), clocked_script(client, "jobs/take_room")
        assert [1, 1, 0] == [take(keys=["room"], args=[40, 100, 600]) for _ in range(3)]
        clock.advance(600)
        assert 0 == take(keys=["room"], args=[40, 100, 600])
        clock.advance(600)
        assert [1, 1, 0] == [take(keys=["room"], args=[40, 100, 600]) for _ in range(3)]
        assert 2 >= client.hlen("room")
        assert 1 == take(keys=["room"], args=[-500, 0, 600])
        assert {0} == set(map(int, client.hvals("room")))
        assert 0 < client.ttl("room") <= 1200
