"""Graceful shutdown: requests in progress are served, new ones are refused."""

import time
from collections.abc import Callable
from typing import Final

DRAIN: Final = "imagegate.drain"
"""The key of the ShutdownState in the state that the application shares with its server."""


class ShutdownState:
    """Shutdown state of this process. A shutdown cannot be cancelled."""

    __slots__ = ("_ends_s", "_monotonic", "is_on")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.is_on = False
        self._monotonic = monotonic
        self._ends_s = 0.0

    def begin(self, within_s: float) -> None:
        """Begins the shutdown, which may take `within_s` seconds. Only the first call counts."""
        if not self.is_on:
            self.is_on, self._ends_s = True, self._monotonic() + within_s

    def force(self) -> None:
        """Ends the time for requests in progress."""
        self.is_on, self._ends_s = True, 0.0

    def left_s(self) -> float:
        """Returns the remaining seconds."""
        return max(0.0, self._ends_s - self._monotonic())
