import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import redis as sync_redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.keys import UpstreamKey
from gateway.settings import make_secret
from gateway.stores import Client, answer, connect, load_script, ping, redis_faults
from gateway.stores.keypool import KeyPool, Lease
from tests.harness import REDIS_BINARIES, redis_server

pytestmark = pytest.mark.anyio

each_kind = pytest.mark.parametrize("kind", list(REDIS_BINARIES))


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@contextmanager
def paused(url: str) -> Iterator[None]:
    """The server stands still, as under a long fork or on a stopped machine: it accepts and never answers."""
    with sync_redis.Redis.from_url(url) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def away(redis: Client) -> Fault | None:
    with anyio.fail_after(20):
        try:
            await ping(redis)
        except GatewayError as error:
            return error.fault
    return None


async def test_a_script_survives_script_flush(each_redis: str) -> None:
    redis = connect(each_redis, 2.0)
    create = load_script(redis, "create_tenant")
    try:
        assert 1 == await create(["ig1:{a}:tenant"], ["models", ""])
        await redis.script_flush()
        assert 1 == await create(["ig1:{b}:tenant"], ["models", ""])
        assert 0 == await create(["ig1:{b}:tenant"], ["models", ""])
    finally:
        await redis.aclose()


@each_kind
async def test_a_restarted_server_is_found_again(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, 2.0)
        create = load_script(redis, "create_tenant")
        assert 1 == await create(["ig1:{a}:tenant"], ["models", ""])
    try:
        assert Fault.REDIS_AWAY is await away(redis)
        (directory / "redis.sock").unlink(missing_ok=True)
        with redis_server(REDIS_BINARIES[kind], directory):
            assert None is await away(redis)
            assert 1 == await create(["ig1:{a}:tenant"], ["models", ""])
    finally:
        await redis.aclose()


@each_kind
@pytest.mark.parametrize("has_connection", [True, False])
async def test_a_server_that_stands_still_is_given_up_in_time(
    kind: str, directory: Path, *, has_connection: bool
) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, 0.1)
        try:
            assert not has_connection or await away(redis) is None
            with paused(url):
                assert Fault.REDIS_AWAY is await away(redis)
            assert None is await away(redis)
        finally:
            await redis.aclose()


@each_kind
async def test_a_late_answer_is_not_taken_for_the_next_call_s(kind: str, directory: Path) -> None:
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, 0.1)
        try:
            await answer(redis, redis.set("ours", "right"), bool)
            with paused(url), pytest.raises(GatewayError):
                await answer(redis, redis.echo("late"), str)
            assert ["right"] * 5 == [await answer(redis, redis.get("ours"), str) for _ in range(5)]
        finally:
            await redis.aclose()


@each_kind
async def test_many_more_calls_than_connections_all_end(kind: str, directory: Path) -> None:
    done: list[bool] = []
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, 5.0)

        async def call() -> None:
            done.append(await answer(redis, redis.ping(), bool))

        async with anyio.create_task_group() as group:
            for _ in range(500):
                group.start_soon(call)
        with sync_redis.Redis.from_url(url) as client:
            assert len(client.client_list()) <= 65
        await redis.aclose()
    assert [True] * 500 == done


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock", "redis://nobody.invalid:6379/0"]
)
async def test_a_server_that_is_not_there_is_redis_away(url: str) -> None:
    redis = connect(url, 1.0)
    try:
        assert Fault.REDIS_AWAY is await away(redis)
    finally:
        await redis.aclose()


async def test_a_wrong_password_is_told_without_the_password(each_redis: str) -> None:
    redis = connect(each_redis.replace("unix://", "unix://user:hunter2@"), 1.0)
    try:
        with pytest.raises(GatewayError) as caught:
            await ping(redis)
    finally:
        await redis.aclose()
    assert Fault.REDIS_AWAY is caught.value.fault
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://localhost:port/0"])
def test_what_is_no_redis_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        connect(url, 1.0)


@pytest.mark.parametrize("error", [RedisConnectionError("x"), ResponseError("x"), OSError("x"), TimeoutError("x")])
def test_whatever_keeps_redis_from_answering_is_redis_away(error: Exception) -> None:
    with pytest.raises(GatewayError) as caught, redis_faults():
        raise error
    assert Fault.REDIS_AWAY is caught.value.fault
    assert error is caught.value.__cause__


def test_a_mistake_of_the_program_is_not_redis_away() -> None:
    with pytest.raises(KeyError), redis_faults():
        raise KeyError("x")


@each_kind
async def test_a_pool_works_again_after_its_server_was_away(kind: str, directory: Path) -> None:
    key = UpstreamKey("sim", "a", "a-1", make_secret("x"))
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, 0.2)
        pool = KeyPool(redis, [key], time.time)
        try:
            with paused(url), pytest.raises(GatewayError):
                await pool.lease("sim", "image-01")
            assert isinstance(await pool.lease("sim", "image-01"), Lease)
        finally:
            await redis.aclose()


@each_kind
async def test_many_calls_to_a_frozen_server_all_end_within_the_one_deadline(kind: str, directory: Path) -> None:
    """Waiting for a connection, connecting and reading share it: they do not add up."""
    deadline_s = 3.0
    took: list[float] = []
    with redis_server(REDIS_BINARIES[kind], directory) as url:
        redis = connect(url, deadline_s)

        async def call() -> None:
            started = anyio.current_time()
            assert Fault.REDIS_AWAY is await away(redis)
            took.append(anyio.current_time() - started)

        with paused(url):
            async with anyio.create_task_group() as group:
                for _ in range(200):
                    group.start_soon(call)
        await redis.aclose()
    assert 200 == len(took)
    assert max(took) < 2 * deadline_s
