"""What every call to Redis passes through: one deadline, one breaker, and a bound on the calls under way.

The deadline judges Redis and nothing else. It begins with the call's turn, counts only time in which the event loop
turned (see patience.py), grows with the scripts that are in flight, and begins again whenever a call that was sent
before is answered. The wait for a turn needs no bound: the calls before it are answered or fail, and it ends at once
when the breaker opens.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sized
from dataclasses import dataclass
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

from gateway.redis.circuit_breaker import Breaker, ConcurrencyLimiter, Outcome, Permit
from gateway.redis.deadlines import DEADLINE, Countdown

CALLS_MAX: Final = 32
"""Calls under way, and so connections, of one process. More do not make one server faster, and each costs it memory."""
_SCRIPTS_A_DEADLINE: Final = 16
"""So many scripts in flight add one deadline: the server runs them one after another, and all of what has arrived, from
any process, before it sends the first answer."""
_CANCEL_AGAIN_S: Final = 1.0
_REFUSED: Final = "it did not answer lately; tried again in less than a second"
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class NotAskedError(RedisConnectionError):
    """The call was never begun: the breaker was open."""


@dataclass(slots=True, kw_only=True)
class _Silence(Countdown):
    """Of the server, as a call in flight knows it: since the last answer that shows that the server works."""

    scripts: int
    answers: Sized
    """Those of its own, as they come."""
    seen: int = 0

    def allow_for(self, scripts: int) -> None:
        """That so many are in flight; the most of them count, as the answers to all may come at once."""
        self.patience = max(self.patience, DEADLINE + DEADLINE * scripts // _SCRIPTS_A_DEADLINE)

    def look(self) -> None:
        """Whether answers have come."""
        if len(self.answers) > self.seen:
            self.seen = len(self.answers)
            self.restart()


class CallGuard:
    """For one client.

    `forget` closes idle connections, without waiting: they may lead to a server that is gone or no longer the master.
    """

    def __init__(self, deadline_s: float, forget: Callable[[], Awaitable[None]]) -> None:
        self.breaker = Breaker(time.monotonic)
        self.on_opened: Callable[[], None] = lambda: None
        """What is to be done when the breaker opens, or a cluster has another primary: it may know less."""
        self._deadline_s = deadline_s
        self._forget = forget
        self._slots = ConcurrencyLimiter(CALLS_MAX)
        self._under_way: dict[asyncio.Task[object], _Silence] = {}
        """The first to begin first."""

    async def run(self, call: Coroutine[object, object, _T], *, scripts: int = 0, answers: Sized = ()) -> _T:
        """The result of a call. Connecting, sending and reading share one deadline, which begins with its turn.

        `scripts`: how many it runs; `answers`: where their answers are gathered.
        Does not rely on cancellation: under load redis-py swallows some (of 200 calls to a frozen server up to 17 took
        three deadlines). The call that is given up keeps its slot until it has ended.
        Raises: TimeoutError, and what the call raises.
        """
        silence = _Silence(deadline_s=self._deadline_s, scripts=scripts, answers=answers)
        try:
            entry = await self._enter()
        except BaseException:
            call.close()
            raise
        try:
            result = await self._in_time(call, silence)
        except BaseException as error:
            await self._note(entry, error, silence)
            raise
        self._leave(entry, Outcome.ANSWERED)
        return result

    async def end(self) -> None:
        """Wait for the calls that were given up: each may still open a connection, which nobody would close."""
        given_up = set(self._under_way)
        for task in given_up:
            self._give_up(task)
        if given_up:
            await asyncio.wait(given_up)

    def is_caller(self) -> bool:
        """Whether this runs inside one of its calls."""
        return asyncio.current_task() in self._under_way

    async def _enter(self) -> Permit:
        """The leave to make one call, and a slot for it, which is given back when the call has ended."""
        entry = self._ask_breaker()
        try:
            has_slot = await self._slots.take()
        except asyncio.CancelledError:
            self._leave(entry, Outcome.UNKNOWN)
            raise
        if not has_slot:
            self._leave(entry, Outcome.UNKNOWN)
            raise NotAskedError(_REFUSED)
        if entry.is_probe:
            return entry
        try:
            return self._ask_breaker()
        except NotAskedError:
            self._slots.release_key()
            raise

    def _ask_breaker(self) -> Permit:
        entry = self.breaker.enter()
        if entry is None:
            raise NotAskedError(_REFUSED)
        return entry

    async def _note(self, entry: Permit, error: BaseException, silence: _Silence) -> None:
        outcome = judge(error)
        self._leave(entry, outcome, max(1, silence.passed // DEADLINE))
        if outcome is Outcome.FAILED:
            await self._forget()

    def _leave(self, entry: Permit, outcome: Outcome, failures: int = 1) -> None:
        was_open = self.breaker.is_open
        self.breaker.leave(entry, outcome, failures)
        if self.breaker.is_open is not was_open:
            _LOG.warning("redis_breaker_closed" if was_open else "redis_breaker_opened")
            if self.breaker.is_open:
                self._slots.reject_waiters()
                self.on_opened()

    async def _in_time(self, call: Coroutine[object, object, _T], silence: _Silence) -> _T:
        task = asyncio.ensure_future(call)
        self._under_way[task] = silence
        task.add_done_callback(self._discard_result)
        try:
            while not silence.is_over:
                silence.allow_for(sum(other.scripts for other in self._under_way.values()))
                await asyncio.wait({task}, timeout=silence.begin_piece())
                if task.done():
                    return task.result()
                silence.end_piece()
                silence.look()
        finally:
            self._give_up(task)
            del task  # it keeps its error, whose traceback keeps this frame
        raise TimeoutError(f"no answer in {self._deadline_s * silence.patience / DEADLINE:g} s")

    def _give_up(self, task: "asyncio.Task[object]") -> None:
        """Cancel it until it ends."""
        if not task.done():
            task.cancel()
            asyncio.get_running_loop().call_later(_CANCEL_AGAIN_S, self._give_up, task)

    def _discard_result(self, task: "asyncio.Task[object]") -> None:
        """Hand its slot on. What was answered shows those who were sent later that the server works."""
        error = None if task.cancelled() else task.exception()
        is_answered = not task.cancelled() and (error is None or judge(error) is Outcome.ANSWERED)
        is_later = False
        for other, silence in self._under_way.items():
            if is_later and is_answered:
                silence.restart()
            is_later = is_later or other is task
        del self._under_way[task]
        self._slots.release_key()


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
