import asyncio
import time
from collections.abc import Coroutine

import anyio
import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.stores.breaker import Outcome
from gateway.stores.guard import CALLS_MAX, Guard, judge

pytestmark = pytest.mark.anyio

READONLY_OF_6_2 = "Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only"
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."


class Server:
    """Answers, fails or hangs as told, and counts."""

    def __init__(self) -> None:
        self.forgotten = 0
        self.under_way = 0
        self.most_under_way = 0
        self.is_released = asyncio.Event()

    async def forget(self) -> None:
        self.forgotten += 1

    async def call(self, error: Exception | None = None) -> str:
        if error:
            raise error
        return "answer"

    async def hang(self) -> str:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.is_released.wait()
        finally:
            self.under_way -= 1
        return "answer"


@pytest.fixture
def server() -> Server:
    return Server()


def guard_of(server: Server, deadline_s: float = 5.0) -> Guard:
    return Guard(deadline_s, server.forget)


async def ended(guard: Guard, call: Coroutine[object, object, str]) -> str:
    """What became of a call: its answer or the name of its error."""
    try:
        return await guard.run(call)
    except (OSError, RedisConnectionError, ResponseError) as error:
        return type(error).__name__


async def opened(server: Server) -> Guard:
    guard = guard_of(server)
    for _ in range(5):
        assert "ConnectionError" == await ended(guard, server.call(RedisConnectionError("refused")))
    return guard


async def test_a_call_is_answered(server: Server) -> None:
    assert "answer" == await guard_of(server).run(server.call())
    assert 0 == server.forgotten


async def test_a_call_that_hangs_is_given_up_at_the_deadline(server: Server) -> None:
    with anyio.fail_after(10):
        assert "TimeoutError" == await ended(guard_of(server, 0.05), server.hang())
    assert 1 == server.forgotten


async def test_a_call_that_is_never_begun_is_no_warning(server: Server) -> None:
    """Warnings are errors here: a coroutine that nobody awaits would be one."""
    guard = await opened(server)
    assert guard.breaker.is_open
    assert "ConnectionError" == await ended(guard, server.call())


async def test_a_caller_who_goes_away_at_once_leaves_no_warning(server: Server) -> None:
    task = asyncio.ensure_future(guard_of(server).run(server.call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_probe_finds_out_that_the_server_is_back(server: Server) -> None:
    guard = await opened(server)
    with anyio.fail_after(10):
        while await ended(guard, server.call()) != "answer":  # noqa: ASYNC110 - nobody else knows when
            await asyncio.sleep(0.05)
    assert not guard.breaker.is_open


async def test_a_probe_whose_caller_goes_away_does_not_keep_the_next_from_trying(server: Server) -> None:
    guard = await opened(server)
    await asyncio.sleep(0.6)
    probe = asyncio.ensure_future(guard.run(server.hang()))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait({probe})
    assert "answer" == await guard.run(server.call())


async def test_an_answer_that_has_arrived_counts_though_this_process_was_too_busy_to_look(server: Server) -> None:
    guard = guard_of(server, 0.05)

    async def keep_busy() -> None:
        server.is_released.set()
        time.sleep(0.2)  # noqa: ASYNC251 - as a long computation would

    async with asyncio.TaskGroup() as group:
        calling = group.create_task(guard.run(server.hang()))
        await asyncio.sleep(0.01)
        group.create_task(keep_busy())
    assert "answer" == calling.result()


async def test_calls_wait_for_one_another_within_their_deadline(server: Server) -> None:
    guard = guard_of(server)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(guard.run(server.hang())) for _ in range(3 * CALLS_MAX)]
        await asyncio.sleep(0.05)
        assert CALLS_MAX == server.under_way
        server.is_released.set()
    assert ["answer"] * len(calls) == [call.result() for call in calls]
    assert CALLS_MAX == server.most_under_way


async def test_calls_that_get_no_turn_are_given_up_too(server: Server) -> None:
    guard = guard_of(server, 0.05)
    with anyio.fail_after(10):
        found = await asyncio.gather(*(ended(guard, server.hang()) for _ in range(3 * CALLS_MAX)))
    assert {"TimeoutError"} == set(found)
    await asyncio.sleep(0)
    assert 0 == server.under_way
    assert guard.breaker.is_open


async def test_after_a_failure_idle_connections_are_not_trusted(server: Server) -> None:
    guard = guard_of(server)
    await ended(guard, server.call(ReadOnlyError("READONLY")))
    assert 1 == server.forgotten
    await ended(guard, server.call(ResponseError("WRONGTYPE")))
    assert 1 == server.forgotten


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RedisConnectionError("refused"), Outcome.FAILED),
        (RedisTimeoutError("late"), Outcome.FAILED),
        (TimeoutError("late"), Outcome.FAILED),
        (ConnectionResetError("cut"), Outcome.FAILED),
        (AuthenticationError("WRONGPASS"), Outcome.FAILED),
        (BusyLoadingError("loading"), Outcome.FAILED),
        (ReadOnlyError("no writes"), Outcome.FAILED),
        (ResponseError(READONLY_OF_6_2), Outcome.FAILED),
        (ClusterDownError("down"), Outcome.FAILED),
        (MasterDownError("down"), Outcome.FAILED),
        (RedisClusterException("no node"), Outcome.FAILED),
        (ResponseError(BUSY), Outcome.FAILED),
        (ResponseError("WRONGTYPE"), Outcome.ANSWERED),
        (OutOfMemoryError("command not allowed"), Outcome.ANSWERED),
        (NoPermissionError("no"), Outcome.ANSWERED),
        (KeyError("a mistake of the program"), Outcome.UNKNOWN),
        (asyncio.CancelledError(), Outcome.UNKNOWN),
    ],
)
def test_an_error_that_a_server_answers_is_an_answer_unless_it_cannot_serve(
    error: BaseException, expected: Outcome
) -> None:
    assert expected is judge(error)
