"""Deadline, circuit breaker and concurrency limit for every call to Redis.

The deadline measures Redis only. It starts when the call gets a slot and counts only time in which the event loop
ran (see deadlines.py). It grows with the number of scripts in flight, and restarts when an earlier call gets its
reply. Waiting for a slot needs no deadline: earlier calls finish or fail within theirs, and an open breaker rejects
each waiter that gets a slot.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

import structlog
from redis.exceptions import ClusterDownError, ReadOnlyError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis.deadlines import DEADLINE, PIECES, Countdown

CALLS_MAX: Final = 32
"""Limit on concurrent calls, and so connections, of one process. More do not speed up one server, and each costs
memory."""
_FAILURES_MAX: Final = 5
_OPEN_S: Final = 0.5
"""Time between probes. Short, because a probe costs only one connection."""
_CANCEL_INTERVAL_S: Final = 1.0
_LOG = structlog.get_logger("imagegate.redis")
_T = TypeVar("_T")


class CallNotStartedError(RedisConnectionError):
    """The breaker was open; the call was not started."""


class Outcome(Enum):
    """Result of a call, as evidence about the server."""

    ANSWERED = auto()
    FAILED = auto()
    UNKNOWN = auto()
    """The caller was cancelled first."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission for one call; pass it to `record` with the outcome."""

    answers: int
    """Number of replies received when this call started."""
    is_probe: bool = False


class Breaker:
    """Circuit breaker of one server, in one event loop.

    While open it fails calls immediately and lets one at a time probe the server. A failure counts only if no other
    call got a reply since it started, so a burst that exceeds this process's capacity does not open it.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, failures_max: int = _FAILURES_MAX, open_s: float = _OPEN_S
    ) -> None:
        self.is_open = False
        self._monotonic = monotonic
        self._failures_max = failures_max
        self._open_s = open_s
        self._answers = 0
        self._failures = 0
        self._open_until = 0.0
        self._is_probing = False

    def acquire(self) -> Permit | None:
        """Returns a permit, or None if the call must fail immediately."""
        if self.is_open:
            if self._is_probing or self._monotonic() < self._open_until:
                return None
            self._is_probing = True
        return Permit(self._answers, self.is_open)

    def record(self, permit: Permit, outcome: Outcome, failures: int = 1) -> bool:
        """Records an outcome. `failures` is the weight of a failure. Returns: True if the breaker opened or closed."""
        was_open = self.is_open
        if permit.is_probe:
            self._is_probing = False
        if outcome is Outcome.ANSWERED:
            self._answers += 1
            self._failures = 0
            self.is_open = False
        elif outcome is Outcome.FAILED and permit.answers == self._answers:
            self._failures += failures
            if permit.is_probe or (self._failures >= self._failures_max and not was_open):
                self.is_open = True
                self._open_until = self._monotonic() + self._open_s
        return self.is_open is not was_open


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
        self._slots = asyncio.Semaphore(CALLS_MAX)
        self._in_flight: dict[asyncio.Task[object], Countdown] = {}
        """In start order."""

    async def run(self, call: Coroutine[object, object, _T], *, scripts: int = 0, replies: Sized = ()) -> _T:
        """Returns the result of a call.

        Connecting, sending and reading share one deadline, which starts with its slot.
        `scripts` is the number of scripts that it runs; `replies` collects their replies.
        Raises: TimeoutError, and what the call raises.
        """
        try:
            permit = await self._acquire()
        except BaseException:
            call.close()
            raise
        countdown = Countdown(deadline_s=self._deadline_s, scripts=scripts, replies=replies)
        outcome = Outcome.ANSWERED
        try:
            return await self._run_before_deadline(call, countdown)
        except BaseException as error:
            outcome = judge(error)
            raise
        finally:
            if self.breaker.record(permit, outcome, max(1, countdown.passed // DEADLINE)):
                _LOG.warning("redis_breaker_opened" if self.breaker.is_open else "redis_breaker_closed")
                if self.breaker.is_open:
                    self.on_opened()
            if outcome is Outcome.FAILED:
                await self._reset()

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
        """Takes a permit and a slot, which is released when the call has ended. Raises: CallNotStartedError."""
        if permit := self.breaker.acquire():
            try:
                await self._slots.acquire()
            except asyncio.CancelledError:
                self.breaker.record(permit, Outcome.UNKNOWN)
                raise
            # while it waited, other calls may have opened the breaker, or got replies
            if permit.is_probe or (permit := self.breaker.acquire()):
                return permit
            self._slots.release()
        raise CallNotStartedError("circuit breaker open after recent timeouts; retrying within 1 s")

    async def _run_before_deadline(self, call: Coroutine[object, object, _T], countdown: Countdown) -> _T:
        """Does not rely on cancellation: redis-py swallows some under load.

        Of 200 calls to a frozen server, up to 17 took three deadlines. A cancelled call holds its slot until it ends.
        """
        task = asyncio.ensure_future(call)
        self._in_flight[task] = countdown
        task.add_done_callback(self._end_call)
        next_s: float | None = self._deadline_s / PIECES
        try:
            while next_s is not None:
                await asyncio.wait({task}, timeout=next_s)
                if task.done():
                    return task.result()
                next_s = countdown.end_piece(sum(other.scripts for other in self._in_flight.values()))
        finally:
            if not task.done():
                self._cancel(task)
            del task  # the task holds its error, whose traceback holds this frame
        raise TimeoutError(f"no answer in {self._deadline_s * countdown.patience / DEADLINE:g} s")

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        """Cancels the task repeatedly until it ends."""
        if not task.done():
            task.cancel()
            asyncio.get_running_loop().call_later(_CANCEL_INTERVAL_S, self._cancel, task)

    def _end_call(self, task: "asyncio.Task[object]") -> None:
        """Releases the slot. A reply restarts the deadline of every call sent later."""
        error = None if task.cancelled() else task.exception()
        is_answered = not task.cancelled() and (error is None or judge(error) is Outcome.ANSWERED)
        is_later = False
        for other, countdown in self._in_flight.items():
            if is_later and is_answered:
                countdown.restart()
            is_later = is_later or other is task
        del self._in_flight[task]
        self._slots.release()


def unavailable(error: Exception) -> GatewayError:
    return GatewayError(ErrorCode.REDIS_UNAVAILABLE, f"{type(error).__name__}: {error}")


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Translates every Redis failure into REDIS_UNAVAILABLE."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        raise unavailable(error) from error


def judge(error: BaseException) -> Outcome:
    """Classifies an error: only one that shows that the server cannot serve counts as a failure.

    Redis 6.2 wraps READONLY if a script ran on a replica. A server may also be busy with a long script.
    """
    match error:
        case RedisConnectionError() | RedisTimeoutError() | OSError() | RedisClusterException():
            return Outcome.FAILED
        case ClusterDownError() | ReadOnlyError():
            return Outcome.FAILED
        case ResponseError() if any(words in str(error) for words in ("READONLY", "is busy running a script")):
            return Outcome.FAILED
        case ResponseError():
            return Outcome.ANSWERED
    return Outcome.UNKNOWN
