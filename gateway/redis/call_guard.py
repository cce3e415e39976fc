"""Deadline, circuit breaker and concurrency limit for every call to Redis.

The deadline measures Redis only. It starts when the call gets a slot and counts only time in which the event loop
ran (see deadlines.py). It grows with the number of scripts in flight, and restarts when an earlier call gets its
reply. Waiting for a slot needs no deadline: earlier calls finish or fail, and an open breaker rejects all waiters.
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
"""Limit on concurrent calls, and so connections, of one process. More do not speed up one server, and each costs
memory."""
_SCRIPTS_PER_DEADLINE: Final = 16
"""Scripts in flight that add one more deadline. The server runs all received scripts, of any process, before it
replies."""
_CANCEL_INTERVAL_S: Final = 1.0
_BREAKER_OPEN: Final = "circuit breaker open after recent timeouts; retrying within 1 s"
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class CallNotStartedError(RedisConnectionError):
    """The breaker was open; the call was not started."""


@dataclass(slots=True, kw_only=True)
class _ReplyDeadline(Countdown):
    """Deadline of a call in flight, measured from the last reply that proves the server works."""

    scripts: int
    answers: Sized
    """The call's own replies, as they arrive."""
    seen: int = 0

    def extend_for(self, scripts: int) -> None:
        """Extends the deadline for this many scripts in flight. The maximum counts: all replies may arrive together."""
        self.patience = max(self.patience, DEADLINE + DEADLINE * scripts // _SCRIPTS_PER_DEADLINE)

    def note_replies(self) -> None:
        """Restarts the deadline if new replies arrived."""
        if len(self.answers) > self.seen:
            self.seen = len(self.answers)
            self.restart()


class CallGuard:
    """Guards the calls of one client.

    `reset` closes idle connections without waiting: they may lead to a dead server or a former master.
    """

    def __init__(self, deadline_s: float, reset: Callable[[], Awaitable[None]]) -> None:
        self.breaker = Breaker(time.monotonic)
        self.on_opened: Callable[[], None] = lambda: None
        """Called when the breaker opens, or when a cluster has a new primary, which may lack the last writes."""
        self._deadline_s = deadline_s
        self._reset = reset
        self._slots = ConcurrencyLimiter(CALLS_MAX)
        self._in_flight: dict[asyncio.Task[object], _ReplyDeadline] = {}
        """In start order."""

    async def run(self, call: Coroutine[object, object, _T], *, scripts: int = 0, answers: Sized = ()) -> _T:
        """Returns the result of a call.

        Connecting, sending and reading share one deadline, which starts with its slot.
        `scripts` is the number of scripts that it runs; `answers` collects their replies.
        Does not rely on cancellation: redis-py swallows some under load. Of 200 calls to a frozen server, up to 17
        took
        three deadlines. A cancelled call holds its slot until it ends.
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
        """Waits for cancelled calls: each may still open a connection that nothing else would close."""
        cancelled = set(self._in_flight)
        for task in cancelled:
            self._cancel(task)
        if cancelled:
            await asyncio.wait(cancelled)

    def is_caller(self) -> bool:
        """Returns True inside one of its own calls."""
        return asyncio.current_task() in self._in_flight

    async def _acquire(self) -> Permit:
        """Returns a permit for one call and takes a slot, released when the call has ended."""
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
            del task  # the task holds its error, whose traceback holds this frame
        raise TimeoutError(f"no answer in {self._deadline_s * deadline.patience / DEADLINE:g} s")

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        """Cancels the task repeatedly until it ends."""
        if not task.done():
            task.cancel()
            asyncio.get_running_loop().call_later(_CANCEL_INTERVAL_S, self._cancel, task)

    def _discard_result(self, task: "asyncio.Task[object]") -> None:
        """Releases the slot. A reply restarts the deadline of every call sent later."""
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
    """Classifies an error: only one that shows that the server cannot serve counts as a failure."""
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
    """Matches a script that ran on a replica (Redis 6.2 wraps that error), or a server busy with a long script."""
    return "READONLY" in message or "is busy running a script" in message
