"""Deadlines for Redis that count only time in which the event loop ran.

asyncio timers advance while this process does not run: on a busy machine, under the GIL, while it is stopped.
They then fire before the received data is read. A deadline here consists of pieces. After each piece the loop has
polled its sockets, and a late wake-up counts at most one piece. A late piece counts less: if the machine is too
busy for this process, it may be too busy for Redis.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

DEADLINE: Final = 80
"""One deadline, in countdown units."""
_ON_TIME: Final = 4
_LATE: Final = 1
"""Units of a late piece."""
_TURNS: Final = 10
"""Event-loop iterations that a reply needs from the socket to its caller."""


@dataclass(slots=True, kw_only=True)
class Countdown:
    """Counts down one deadline, or `patience` units."""

    deadline_s: float
    patience: int = DEADLINE
    passed: int = 0
    _turns: int = 0
    _began_s: float = 0.0

    @property
    def is_over(self) -> bool:
        return self._turns >= _TURNS

    def begin_piece(self) -> float:
        """Returns: seconds until the piece ends; 0, one event-loop iteration, once the countdown is used up."""
        self._began_s = time.monotonic()
        return self._piece_s if self.passed < self.patience else 0.0

    def end_piece(self) -> None:
        if self.passed >= self.patience:
            self._turns += 1
        else:
            is_late = time.monotonic() - self._began_s > 2 * self._piece_s
            self.passed += _LATE if is_late else _ON_TIME

    def restart(self) -> None:
        self.passed = self._turns = 0
        self.patience = DEADLINE

    @property
    def _piece_s(self) -> float:
        return self.deadline_s * _ON_TIME / DEADLINE


@asynccontextmanager
async def in_time(deadline_s: float) -> AsyncIterator[None]:
    """Limits the block to one deadline. Raises: TimeoutError."""
    loop, countdown = asyncio.get_running_loop(), Countdown(deadline_s=deadline_s)

    def go_on() -> None:
        countdown.end_piece()
        if countdown.is_over:
            timeout.reschedule(loop.time())
        else:
            timers[0] = loop.call_later(countdown.begin_piece(), go_on)

    async with asyncio.timeout(None) as timeout:
        timers = [loop.call_later(countdown.begin_piece(), go_on)]
        try:
            yield
        finally:
            timers[0].cancel()
