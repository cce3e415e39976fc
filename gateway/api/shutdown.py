"""Graceful shutdown: requests in progress are served, new ones are refused."""

import time
from dataclasses import dataclass
from typing import Final

DRAIN: Final = "imagegate.drain"
"""The key of the ShutdownState in the state that the application shares with its server."""


@dataclass(slots=True)
class ShutdownState:
    """Shutdown state of this process. A shutdown cannot be cancelled."""

    is_on: bool = False
    _ends_s: float = 0.0
    """Monotonic."""

    def begin(self, within_s: float) -> None:
        """Begins the shutdown, which may take `within_s` seconds. Only the first call counts."""
        if not self.is_on:
            self.is_on, self._ends_s = True, time.monotonic() + within_s

    def force(self) -> None:
        """Ends the time for requests in progress."""
        self.is_on, self._ends_s = True, 0.0

    def left_s(self) -> float:
        """Returns the remaining seconds."""
        return max(0.0, self._ends_s - time.monotonic())
