"""The end of a process, as clients and balancers see it: what has begun is served, nothing new is begun."""

import time
from collections.abc import Callable
from typing import Final

from gateway.domain.faults import Fault, GatewayError

DRAIN: Final = "imagegate.drain"
"""Where the program's state, which its server shares, has its Drain."""


class Drain:
    """Whether this process is ending. It never comes back from that."""

    __slots__ = ("_ends_s", "_monotonic", "is_on")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.is_on = False
        self._monotonic = monotonic
        self._ends_s = 0.0

    def begin(self, within_s: float) -> None:
        """It has so long, from the first time that this is said."""
        if not self.is_on:
            self.is_on, self._ends_s = True, self._monotonic() + within_s

    def hurry(self) -> None:
        """It has no time any more."""
        self.is_on, self._ends_s = True, 0.0

    def left_s(self) -> float:
        """How long it may still take to end."""
        return max(0.0, self._ends_s - self._monotonic())

    def refuse(self) -> None:
        """Keep a request from beginning anything. Raises: GatewayError SHUTTING_DOWN once the process is ending."""
        if self.is_on:
            raise GatewayError(Fault.SHUTTING_DOWN, "it came after the end had begun")
