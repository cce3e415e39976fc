"""Concurrency and rate limits of an account; a refused request uses no capacity."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.testing.simulator.fault_injection import RATE_LIMITED, TOO_MANY_AT_ONCE, RefusedError

MINUTE_S: Final = 60.0


class Minute(StrEnum):
    """The rate window of a provider: the last 60 seconds, or the clock minute."""

    SLIDING = "sliding"
    FIXED = "fixed"

    def end_of(self, moment: float) -> float:
        """Returns when something that happened at a moment leaves the window."""
        if self is Minute.SLIDING:
            return moment + MINUTE_S
        return (moment // MINUTE_S + 1) * MINUTE_S


@dataclass(frozen=True, slots=True)
class Limits:
    """Per account; None is no limit."""

    requests_per_minute: int
    images_per_minute: int | None = None
    max_concurrency: int | None = None
    minute: Minute = Minute.SLIDING


class Window:
    """Requests accepted in the current minute, with their images."""

    def __init__(self, minute: Minute) -> None:
        self.images = 0
        self._minute = minute
        self._entries: deque[tuple[float, int]] = deque()
        """(end of window, images) of each request; first in, first out."""

    @property
    def requests(self) -> int:
        return len(self._entries)

    def advance(self, now: float) -> None:
        """Drops requests that have left the window."""
        while self._entries and self._entries[0][0] <= now:
            self.images -= self._entries.popleft()[1]

    def add(self, now: float, images: int) -> None:
        self._entries.append((self._minute.end_of(now), images))
        self.images += images


class Gate:
    """Admits the requests of one account."""

    def __init__(self, limits: Limits) -> None:
        self.peak_per_minute = 0
        """Most requests admitted in any 60 seconds, whatever the window."""
        self._limits = limits
        self._counted = Window(limits.minute)
        self._latest = Window(Minute.SLIDING)

    def admit(self, now: float, *, images: int, in_flight: int) -> None:
        """Admits a request; `in_flight` counts the account's running requests, including this one.

        Raises: RefusedError 1041 for too much concurrency, 1002 for too many requests in this minute.
        """
        self._counted.advance(now)
        self._latest.advance(now)
        if _exceeds(in_flight, self._limits.max_concurrency):
            raise RefusedError(TOO_MANY_AT_ONCE)
        if _exceeds(self._counted.requests + 1, self._limits.requests_per_minute):
            raise RefusedError(RATE_LIMITED)
        if _exceeds(self._counted.images + images, self._limits.images_per_minute):
            raise RefusedError(RATE_LIMITED)
        self._counted.add(now, images)
        self._latest.add(now, images)
        self.peak_per_minute = max(self.peak_per_minute, self._latest.requests)


def _exceeds(amount: int, limit: int | None) -> bool:
    return limit is not None and amount > limit
