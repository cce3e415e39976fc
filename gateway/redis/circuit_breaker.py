"""A circuit breaker and a concurrency limiter for calls to Redis.

An open breaker fails calls immediately and lets one call at a time probe the server. A failure counts only if no
other call got a reply since it started. So a burst that exceeds this process's capacity does not open the breaker.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_FAILURES_MAX: Final = 5
_OPEN_S: Final = 0.5
"""Time between probes. Short, because a probe costs only one connection."""


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
    """Circuit breaker of one server, in one event loop."""

    def __init__(
        self, monotonic: Callable[[], float], *, failures_max: int = _FAILURES_MAX, open_s: float = _OPEN_S
    ) -> None:
        self._monotonic = monotonic
        self._failures_max = failures_max
        self._open_s = open_s
        self._answers = 0
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Returns True while calls fail immediately, except for probes."""
        return self._open_until is not None

    def acquire(self) -> Permit | None:
        """Returns a permit, or None if the call must fail immediately."""
        if self._open_until is None:
            return Permit(self._answers)
        if self._is_probing or self._monotonic() < self._open_until:
            return None
        self._is_probing = True
        return Permit(self._answers, is_probe=True)

    def record(self, permit: Permit, outcome: Outcome, failures: int = 1) -> None:
        """Records the outcome of a call. `failures` is the weight of a failure."""
        if permit.is_probe:
            self._is_probing = False
        if outcome is Outcome.ANSWERED:
            self._answers += 1
            self._failures = 0
            self._open_until = None
        elif outcome is Outcome.FAILED and permit.answers == self._answers:
            self._failures += failures
            if permit.is_probe or (self._failures >= self._failures_max and not self.is_open):
                self._open_until = self._monotonic() + self._open_s


class ConcurrencyLimiter:
    """Limits concurrent calls of one event loop, first come, first served."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    async def acquire(self) -> bool:
        """Waits for a slot. Returns: True with a slot, which must be released; False if rejected."""
        if self._free:
            self._free -= 1
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await asyncio.wait({waiter})
        except asyncio.CancelledError:
            if self._remove(waiter):
                self.release()
            raise
        return self._remove(waiter)

    def release(self) -> None:
        """Passes the slot to the call that has waited longest."""
        if self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            waiter.set_result(True)
        else:
            self._free += 1

    def reject_waiters(self) -> None:
        """Rejects all waiting calls."""
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            waiter.set_result(False)

    def _remove(self, waiter: "asyncio.Future[bool]") -> bool:
        """Removes a waiter. Returns: True if it already has a slot."""
        self._waiting.pop(waiter, None)
        return waiter.done() and waiter.result()
