"""A circuit breaker: once Redis answers nobody, calls fail at once, and one at a time finds out whether it is back.

A failure counts only if nobody at all was answered since its call began. So a burst that this process could not get
through in time, while Redis answered others, opens nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_FAILURES_MAX: Final = 5
_PAUSE_S: Final = 0.5
"""Short, as a probe costs no more than one connection."""


class Outcome(Enum):
    """How a call ended, as far as it tells about the server."""

    ANSWERED = auto()
    FAILED = auto()
    UNKNOWN = auto()
    """Its caller went away first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The leave to make one call; hand it back with the outcome."""

    answers: int
    """How many calls had been answered when this one began."""
    is_probe: bool = False


class Breaker:
    """For one server, in one event loop."""

    def __init__(
        self, monotonic: Callable[[], float], *, failures_max: int = _FAILURES_MAX, pause_s: float = _PAUSE_S
    ) -> None:
        self._monotonic = monotonic
        self._failures_max = failures_max
        self._pause_s = pause_s
        self._answers = 0
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls fail at once, but for a probe now and then."""
        return self._open_until is not None

    def enter(self) -> Entry | None:
        """The leave to make a call; None: fail it at once."""
        if self._open_until is None:
            return Entry(self._answers)
        if self._is_probing or self._monotonic() < self._open_until:
            return None
        self._is_probing = True
        return Entry(self._answers, is_probe=True)

    def leave(self, entry: Entry, outcome: Outcome, failures: int = 1) -> None:
        """`failures`: for how many a failure counts."""
        if entry.is_probe:
            self._is_probing = False
        if outcome is Outcome.ANSWERED:
            self._answers += 1
            self._failures = 0
            self._open_until = None
        elif outcome is Outcome.FAILED and entry.answers == self._answers:
            self._failures += failures
            if entry.is_probe or (self._failures >= self._failures_max and not self.is_open):
                self._open_until = self._monotonic() + self._pause_s
