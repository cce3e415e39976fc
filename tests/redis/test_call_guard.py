import asyncio
from collections.abc import Coroutine
from contextlib import suppress

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

from gateway.redis.call_guard import CALLS_MAX, CallGuard, Outcome, judge

pytestmark = pytest.mark.anyio

READONLY_OF_6_2 = "Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only"
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."


class Server:
    """Answers, fails or hangs as told, and counts."""

    def __init__(self) -> None:
        self.forgotten = 0
        self.in_flight = 0
        self.most_under_way = 0
        self.is_released = asyncio.Event()

    async def reset(self) -> None:
        self.forgotten += 1

    async def call(self, error: Exception | None = None) -> str:
        if error:
            raise error
        return "answer"

    async def call_slowly(self, duration_s: float) -> str:
        await asyncio.sleep(duration_s)
        return "answer"

    async def hang(self) -> str:
        self.in_flight += 1
        self.most_under_way = max(self.most_under_way, self.in_flight)
        try:
            await self.is_released.wait()
        finally:
            self.in_flight -= 1
        return "answer"


@pytest.fixture
def server() -> Server:
    return Server()


def guard_of(server: Server, deadline_s: float = 5.0) -> CallGuard:
    return CallGuard(deadline_s, server.reset)


async def ended(guard: CallGuard, call: Coroutine[object, object, str]) -> str:
    """What became of a call: its answer or the name of its error."""
    try:
        return await guard.run(call)
    except (OSError, RedisConnectionError, ResponseError) as error:
        return type(error).__name__


async def opened(server: Server) -> CallGuard:
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
    assert "CallNotStartedError" == await ended(guard, server.call())


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


async def test_calls_wait_for_one_another(server: Server) -> None:
    guard = guard_of(server)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(guard.run(server.hang())) for _ in range(3 * CALLS_MAX)]
        await asyncio.sleep(0.05)
        assert CALLS_MAX == server.in_flight
        server.is_released.set()
    assert ["answer"] * len(calls) == [call.result() for call in calls]
    assert CALLS_MAX == server.most_under_way


async def test_a_burst_that_takes_longer_than_the_deadline_is_answered(server: Server) -> None:
    """Each call is answered well within it, once it has its turn."""
    guard = guard_of(server, 0.5)
    found = await asyncio.gather(*(ended(guard, server.call_slowly(0.1)) for _ in range(10 * CALLS_MAX)))
    assert ["answer"] * 10 * CALLS_MAX == found


async def test_a_call_waits_for_its_turn_while_others_are_answered(server: Server) -> None:
    """Here for 13 deadlines: a server that answers serves, and a wait says nothing against it."""
    guard = guard_of(server, 0.2)
    calls = [server.call_slowly(0.1) for _ in range(26 * CALLS_MAX)]
    assert ["answer"] * len(calls) == await asyncio.gather(*(ended(guard, call) for call in calls))
    assert not guard.breaker.is_open


async def test_a_call_that_ignores_being_given_up_is_given_up_again(server: Server) -> None:
    """redis-py swallows some cancellations; its slot must not be lost, nor a shutdown wait for it."""

    async def swallowing() -> str:
        with suppress(asyncio.CancelledError):
            await server.hang()
        return await server.hang()

    guard = guard_of(server, 0.05)
    assert ["TimeoutError"] * 4 == await asyncio.gather(*(ended(guard, swallowing()) for _ in range(4)))
    assert 4 == server.in_flight
    with anyio.fail_after(10):
        await guard.end()
    assert 0 == server.in_flight


async def test_a_deadline_grows_with_the_scripts_in_flight_and_shrinks_with_them(server: Server) -> None:
    guard = guard_of(server, 0.2)
    pipeline = asyncio.ensure_future(guard.run(server.call_slowly(0.6), scripts=64))
    await asyncio.sleep(0)
    assert "answer" == await ended(guard, server.call_slowly(0.5))
    assert "answer" == await pipeline
    assert "TimeoutError" == await ended(guard, server.hang())


async def test_a_deadline_begins_again_with_each_answer_of_its_pipeline(server: Server) -> None:
    guard, answers = guard_of(server, 0.4), list[str]()

    async def trickle() -> str:
        for _ in range(12):
            answers.append(await server.call_slowly(0.1))
        return "answer"

    assert "answer" == await guard.run(trickle(), scripts=1, replies=answers)


async def test_a_deadline_begins_again_when_what_was_sent_before_is_answered(server: Server) -> None:
    guard = guard_of(server, 0.5)
    first = asyncio.ensure_future(ended(guard, server.call_slowly(0.3)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(ended(guard, server.call_slowly(0.65)))
    assert ["answer", "answer"] == [await first, await second]


async def test_what_was_sent_later_proves_nothing(server: Server) -> None:
    guard = guard_of(server, 0.3)
    hanging = asyncio.ensure_future(ended(guard, server.hang()))
    with anyio.fail_after(10):
        while not hanging.done():
            assert "answer" == await ended(guard, server.call_slowly(0.05))
    assert "TimeoutError" == await hanging
    assert not guard.breaker.is_open


async def test_a_pipeline_that_is_silent_for_five_deadlines_opens_the_breaker(server: Server) -> None:
    guard = guard_of(server, 0.05)
    with pytest.raises(TimeoutError):
        await guard.run(server.hang(), scripts=64)
    assert guard.breaker.is_open


async def test_all_who_wait_fail_at_once_when_the_breaker_opens(server: Server) -> None:
    """Else each would take the deadlines of those before it, and its own."""
    guard = guard_of(server, 0.1)
    with anyio.fail_after(5):
        found = await asyncio.gather(*(ended(guard, server.hang()) for _ in range(400)))
    assert {"TimeoutError", "CallNotStartedError"} == set(found)
    assert found.count("TimeoutError") < 2 * CALLS_MAX  # the first to fail hand their turns on before it opens
    await asyncio.sleep(0)
    assert 0 == server.in_flight
    assert guard.breaker.is_open


async def test_a_caller_who_goes_away_while_it_waits_keeps_no_turn(server: Server) -> None:
    guard = guard_of(server)
    hanging = [asyncio.ensure_future(guard.run(server.hang())) for _ in range(CALLS_MAX)]
    waiting = [asyncio.ensure_future(guard.run(server.call())) for _ in range(2 * CALLS_MAX)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    server.is_released.set()
    assert ["answer"] * CALLS_MAX == await asyncio.gather(*hanging)
    assert ["answer"] * 40 == await asyncio.gather(*(guard.run(server.call()) for _ in range(40)))


async def test_its_end_waits_for_calls_that_were_given_up(server: Server) -> None:
    """Some go on for a while though they are cancelled, and may open a connection yet."""
    ended_calls: list[str] = []

    async def stubborn() -> str:
        try:
            await server.hang()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            ended_calls.append("ended")
        return "too late"

    guard = guard_of(server, 0.02)
    assert "TimeoutError" == await ended(guard, stubborn())
    assert [] == ended_calls
    await guard.end()
    assert ["ended"] == ended_calls


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
