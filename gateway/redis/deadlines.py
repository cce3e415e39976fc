"""Deadlines for Redis that count only time in which the event loop ran.

asyncio timers advance while this process does not run: on a busy machine, under the GIL, while it is stopped.
They then fire before the received data is read. A deadline here consists of pieces. After each piece the loop has
polled its sockets, and a late wake-up counts at most one piece. A late piece counts less: if the machine is too
busy for this process, it may be too busy for Redis.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

DEADLINE: Final = 80
"""One deadline, in countdown units."""
_ON_TIME: Final = 4
_LATE: Final = 1
"""Units of a late piece."""
PIECES: Final = DEADLINE // _ON_TIME
_TURNS: Final = 10
"""Event-loop iterations that a reply needs from the socket to its caller."""
_SCRIPTS_PER_DEADLINE: Final = 16
"""Scripts in flight that add one more deadline. The server runs all received scripts, of any process, before it
replies."""


@dataclass(slots=True, kw_only=True)
class Countdown:
    """Counts down one deadline, or `patience` units."""

    deadline_s: float
    scripts: int = 0
    replies: Sized = ()
    """The call's own replies, as they arrive; each restarts the deadline."""
    patience: int = DEADLINE
    passed: int = 0
    _seen: int = 0
    _turns: int = 0
    _began_s: float = field(default_factory=time.monotonic)

    def end_piece(self, scripts: int = 0) -> float | None:
        """Counts the piece that ended, and extends the deadline for this many scripts in flight.

        The maximum counts: all replies may arrive together.
        Returns: seconds of the next piece, 0 for one event-loop iteration; None once the deadline has passed.
        """
        piece_s = self.deadline_s / PIECES
        began_s, self._began_s = self._began_s, time.monotonic()
        if self.passed >= self.patience:
            self._turns += 1
        else:
            self.passed += _LATE if self._began_s - began_s > 2 * piece_s else _ON_TIME
        if len(self.replies) > self._seen:
            self._seen = len(self.replies)
            self.restart()
        self.patience = max(self.patience, DEADLINE + DEADLINE * scripts // _SCRIPTS_PER_DEADLINE)
        if self.passed < self.patience:
            return piece_s
        return 0.0 if self._turns < _TURNS else None

    def restart(self) -> None:
        self.passed = self._turns = 0
        self.patience = DEADLINE


@asynccontextmanager
async def in_time(deadline_s: float) -> AsyncIterator[None]:
    """Limits the block to one deadline. Raises: TimeoutError."""
    loop, countdown = asyncio.get_running_loop(), Countdown(deadline_s=deadline_s)

    def go_on() -> None:
        next_s = countdown.end_piece()
        if next_s is None:
            timeout.reschedule(loop.time())
        else:
            timers[0] = loop.call_later(next_s, go_on)

    async with asyncio.timeout(None) as timeout:
        timers = [loop.call_later(deadline_s / PIECES, go_on)]
        try:
            yield
        finally:
            timers[0].cancel()
