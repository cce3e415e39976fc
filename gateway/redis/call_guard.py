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
_SCRIPTS_PER_DEADLINE: Final = 16
"""So many scripts in flight add one deadline: the server runs them one after another, and all of what has arrived, from
any process, before it sends the first answer."""
_CANCEL_INTERVAL_S: Final = 1.0
_BREAKER_OPEN: Final = "circuit breaker open after recent timeouts; retrying within 1 s"
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class CallNotStartedError(RedisConnectionError):
    """The call was never begun: the breaker was open."""


@dataclass(slots=True, kw_only=True)
class _ReplyDeadline(Countdown):
    """Of the server, as a call in flight knows it: since the last answer that shows that the server works."""

    scripts: int
    answers: Sized
    """Those of its own, as they come."""
    seen: int = 0

    def extend_for(self, scripts: int) -> None:
        """That so many are in flight; the most of them count, as the answers to all may come at once."""
        self.patience = max(self.patience, DEADLINE + DEADLINE * scripts // _SCRIPTS_PER_DEADLINE)

    def note_replies(self) -> None:
        """Whether answers have come."""
        if len(self.answers) > self.seen:
            self.seen = len(self.answers)
            self.restart()


class CallGuard:
    """For one client.

    `reset` closes idle connections, without waiting: they may lead to a server that is gone or no longer the master.
    """

    def __init__(self, deadline_s: float, reset: Callable[[], Awaitable[None]]) -> None:
        self.breaker = Breaker(time.monotonic)
        self.on_opened: Callable[[], None] = lambda: None
        """What is to be done when the breaker opens, or a cluster has another primary: it may know less."""
        self._deadline_s = deadline_s
        self._reset = reset
        self._slots = ConcurrencyLimiter(CALLS_MAX)
        self._in_flight: dict[asyncio.Task[object], _ReplyDeadline] = {}
        """The first to begin first."""

    async def run(self, call: Coroutine[object, object, _T], *, scripts: int = 0, answers: Sized = ()) -> _T:
        """The result of a call. Connecting, sending and reading share one deadline, which begins with its turn.

        `scripts`: how many it runs; `answers`: where their answers are gathered.
        Does not rely on cancellation: under load redis-py swallows some (of 200 calls to a frozen server up to 17 took
        three deadlines). The call that is given up keeps its slot until it has ended.
        Raises: TimeoutError, and what the call raises.
        """
        deadline = _ReplyDeadline(deadline_s=self._deadline_s, scripts=scripts, answers=answers)
        try:
            permit = await self._acquire()
        except BaseException:
            call.close()
            raise
        try:
            result = await self._run_before_deadline(call, deadline)
        except BaseException as error:
            await self._record_failure(permit, error, deadline)
            raise
        self._release(permit, Outcome.ANSWERED)
        return result

    async def end(self) -> None:
        """Wait for the calls that were given up: each may still open a connection, which nobody would close."""
        cancelled = set(self._in_flight)
        for task in cancelled:
            self._cancel(task)
        if cancelled:
            await asyncio.wait(cancelled)

    def is_caller(self) -> bool:
        """Whether this runs inside one of its calls."""
        return asyncio.current_task() in self._in_flight

    async def _acquire(self) -> Permit:
        """The leave to make one call, and a slot for it, which is given back when the call has ended."""
        permit = self._ask_permit()
        try:
            has_slot = await self._slots.acquire()
        except asyncio.CancelledError:
            self._release(permit, Outcome.UNKNOWN)
            raise
        if not has_slot:
            self._release(permit, Outcome.UNKNOWN)
            raise CallNotStartedError(_BREAKER_OPEN)
        if permit.is_probe:
            return permit
        try:
            return self._ask_permit()
        except CallNotStartedError:
            self._slots.release()
            raise

    def _ask_permit(self) -> Permit:
        permit = self.breaker.acquire()
        if permit is None:
            raise CallNotStartedError(_BREAKER_OPEN)
        return permit

    async def _record_failure(self, permit: Permit, error: BaseException, deadline: _ReplyDeadline) -> None:
        outcome = judge(error)
        self._release(permit, outcome, max(1, deadline.passed // DEADLINE))
        if outcome is Outcome.FAILED:
            await self._reset()

    def _release(self, permit: Permit, outcome: Outcome, failures: int = 1) -> None:
        was_open = self.breaker.is_open
        self.breaker.record(permit, outcome, failures)
        if self.breaker.is_open is not was_open:
            _LOG.warning("redis_breaker_closed" if was_open else "redis_breaker_opened")
            if self.breaker.is_open:
                self._slots.reject_waiters()
                self.on_opened()

    async def _run_before_deadline(self, call: Coroutine[object, object, _T], deadline: _ReplyDeadline) -> _T:
        task = asyncio.ensure_future(call)
        self._in_flight[task] = deadline
        task.add_done_callback(self._discard_result)
        try:
            while not deadline.is_over:
                deadline.extend_for(sum(other.scripts for other in self._in_flight.values()))
                await asyncio.wait({task}, timeout=deadline.begin_piece())
                if task.done():
                    return task.result()
                deadline.end_piece()
                deadline.note_replies()
        finally:
            self._cancel(task)
            del task  # it keeps its error, whose traceback keeps this frame
        raise TimeoutError(f"no answer in {self._deadline_s * deadline.patience / DEADLINE:g} s")

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        """Cancel it until it ends."""
        if not task.done():
            task.cancel()
            asyncio.get_running_loop().call_later(_CANCEL_INTERVAL_S, self._cancel, task)

    def _discard_result(self, task: "asyncio.Task[object]") -> None:
        """Hand its slot on. What was answered shows those who were sent later that the server works."""
        error = None if task.cancelled() else task.exception()
        is_answered = not task.cancelled() and (error is None or judge(error) is Outcome.ANSWERED)
        is_later = False
        for other, deadline in self._in_flight.items():
            if is_later and is_answered:
                deadline.restart()
            is_later = is_later or other is task
        del self._in_flight[task]
        self._slots.release()


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
