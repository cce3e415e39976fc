"""What every call to Redis passes through: one deadline, one breaker, and a bound on the calls under way."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final, TypeVar

import structlog
from redis.exceptions import (
    ClusterDownError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.stores.breaker import Breaker, Entry, Outcome

CALLS_MAX: Final = 32
"""Calls under way, and so connections, of one process. More do not make one server faster, and each costs it memory."""
_TURNS: Final = 10
"""Of the event loop, that an answer needs from the socket to its caller."""
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class Guard:
    """For one client.

    `forget` closes idle connections, without waiting: they may lead to a server that is gone or no longer the master.
    """

    def __init__(self, deadline_s: float, forget: Callable[[], Awaitable[None]]) -> None:
        self.breaker = Breaker(time.monotonic)
        self._deadline_s = deadline_s
        self._forget = forget
        self._slots = asyncio.Semaphore(CALLS_MAX)
        self._under_way: set[asyncio.Task[object]] = set()

    async def run(self, call: Coroutine[object, object, _T]) -> _T:
        """The result of a call. Waiting for a slot, connecting, sending and reading share one deadline.

        Does not rely on cancellation: under load redis-py swallows some (of 200 calls to a frozen server up to 17 took
        three deadlines). The call that is given up keeps its slot until it ends by its own time-outs.
        Raises: TimeoutError, and what the call raises.
        """
        entry = self.breaker.enter()
        if entry is None:
            call.close()
            raise RedisConnectionError("it did not answer lately; tried again in less than a second")
        try:
            result = await self._in_time(call)
        except BaseException as error:
            await self._note(entry, error)
            raise
        self._leave(entry, Outcome.ANSWERED)
        return result

    async def end(self) -> None:
        """Wait for the calls that were given up: each may still open a connection, which nobody would close."""
        given_up = set(self._under_way)
        for task in given_up:
            task.cancel()
        if given_up:
            await asyncio.wait(given_up)

    def is_caller(self) -> bool:
        """Whether this runs inside one of its calls."""
        return asyncio.current_task() in self._under_way

    async def _note(self, entry: Entry, error: BaseException) -> None:
        outcome = judge(error)
        counts = self._leave(entry, outcome)
        if counts or (outcome is Outcome.FAILED and not isinstance(error, TimeoutError | RedisTimeoutError)):
            await self._forget()

    def _leave(self, entry: Entry, outcome: Outcome) -> bool:
        was_open = self.breaker.is_open
        counts = self.breaker.leave(entry, outcome)
        if self.breaker.is_open is not was_open:
            _LOG.warning("redis_breaker_closed" if was_open else "redis_breaker_opened")
        return counts

    async def _in_time(self, call: Coroutine[object, object, _T]) -> _T:
        task = asyncio.ensure_future(self._in_turn(call))
        self._under_way.add(task)
        task.add_done_callback(partial(self._bury, call))
        try:
            await asyncio.wait({task}, timeout=self._deadline_s)
            for _ in range(_TURNS):  # what has arrived counts, also where this process was too busy to look in time
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
        finally:
            task.cancel()
        raise TimeoutError(f"no answer in {self._deadline_s:g} s")

    async def _in_turn(self, call: Coroutine[object, object, _T]) -> _T:
        async with self._slots:
            return await call

    def _bury(self, call: Coroutine[object, object, object], task: "asyncio.Task[object]") -> None:
        """See to it that Python complains neither of a call that was never begun nor of an error that nobody took."""
        self._under_way.discard(task)
        call.close()
        if not task.cancelled():
            task.exception()


def judge(error: BaseException) -> Outcome:
    """Whether a call failed because the server cannot serve; any other error that it answers is an answer."""
    match error:
        case RedisConnectionError() | RedisTimeoutError() | OSError() | RedisClusterException():
            return Outcome.FAILED
        case ClusterDownError() | ReadOnlyError():
            return Outcome.FAILED
        case ResponseError() if _is_unable(str(error)):
            return Outcome.FAILED
        case ResponseError():
            return Outcome.ANSWERED
    return Outcome.UNKNOWN


def _is_unable(message: str) -> bool:
    """A script ran into a replica (Redis 6.2 wraps that error), or another script runs on and on."""
    return "READONLY" in message or "is busy running a script" in message
