"""What every call to Redis passes through: one deadline, one breaker, and a bound on the calls under way.

A call's deadline begins with its turn: a burst that waits for its own process says nothing of Redis. That wait has a
bound of its own, and ends at once when the breaker opens.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
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
from gateway.stores.slots import Slots

CALLS_MAX: Final = 32
"""Calls under way, and so connections, of one process. More do not make one server faster, and each costs it memory."""
_WAIT_DEADLINES: Final = 4
"""How long a call may wait for its turn."""
_TURNS: Final = 10
"""Of the event loop, that an answer needs from the socket to its caller."""
_REFUSED: Final = "it did not answer lately; tried again in less than a second"
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class NotAskedError(RedisConnectionError):
    """The call was never begun: the breaker was open, or its turn did not come."""


class Guard:
    """For one client.

    `forget` closes idle connections, without waiting: they may lead to a server that is gone or no longer the master.
    """

    def __init__(self, deadline_s: float, forget: Callable[[], Awaitable[None]]) -> None:
        self.breaker = Breaker(time.monotonic)
        self.on_opened: Callable[[], None] = lambda: None
        """What is to be done when the breaker opens, or a cluster has another primary: it may know less."""
        self._deadline_s = deadline_s
        self._forget = forget
        self._slots = Slots(CALLS_MAX)
        self._under_way: set[asyncio.Task[object]] = set()

    async def run(self, call: Coroutine[object, object, _T]) -> _T:
        """The result of a call. Connecting, sending and reading share one deadline, which begins with its turn.

        Does not rely on cancellation: under load redis-py swallows some (of 200 calls to a frozen server up to 17 took
        three deadlines). The call that is given up keeps its slot until it ends by its own time-outs.
        Raises: TimeoutError, and what the call raises.
        """
        try:
            entry = await self._enter()
        except BaseException:
            call.close()
            raise
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

    async def _enter(self) -> Entry:
        """The leave to make one call, and a slot for it, which is given back when the call has ended."""
        entry = self._ask_breaker()
        try:
            has_slot = await self._slots.take(_WAIT_DEADLINES * self._deadline_s)
        except asyncio.CancelledError:
            self._leave(entry, Outcome.UNKNOWN)
            raise
        if not has_slot:
            self._leave(entry, Outcome.UNKNOWN)
            raise NotAskedError(
                _REFUSED if self.breaker.is_open else f"no turn in {_WAIT_DEADLINES * self._deadline_s:g} s"
            )
        if entry.is_probe:
            return entry
        try:
            return self._ask_breaker()
        except NotAskedError:
            self._slots.give_back()
            raise

    def _ask_breaker(self) -> Entry:
        entry = self.breaker.enter()
        if entry is None:
            raise NotAskedError(_REFUSED)
        return entry

    async def _note(self, entry: Entry, error: BaseException) -> None:
        outcome = judge(error)
        self._leave(entry, outcome)
        if outcome is Outcome.FAILED:
            await self._forget()

    def _leave(self, entry: Entry, outcome: Outcome) -> None:
        was_open = self.breaker.is_open
        self.breaker.leave(entry, outcome)
        if self.breaker.is_open is not was_open:
            _LOG.warning("redis_breaker_closed" if was_open else "redis_breaker_opened")
            if self.breaker.is_open:
                self._slots.send_away()
                self.on_opened()

    async def _in_time(self, call: Coroutine[object, object, _T]) -> _T:
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._bury)
        try:
            await asyncio.wait({task}, timeout=self._deadline_s)
            for _ in range(_TURNS):  # what has arrived counts, also where this process was too busy to look in time
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
        finally:
            task.cancel()
        raise TimeoutError(f"no answer in {self._deadline_s:g} s")

    def _bury(self, task: "asyncio.Task[object]") -> None:
        """See to it that Python does not complain of an error that nobody took."""
        self._under_way.discard(task)
        self._slots.give_back()
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
