"""Phases of a run with stricter or looser assertions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scripts:
    """The Lua scripts that Redis ran in a phase."""

    count: int
    commands: int
    """Commands called by scripts, and the few sent directly."""
    cpu_s: float
    """Of Redis in total."""
    slowest_s: float
    """Wall time; 0 if none took 1 ms."""

    @property
    def commands_each(self) -> float:
        """Average."""
        return self.commands / max(1, self.count)

    @property
    def cpu_ms_each(self) -> float:
        """Average."""
        return 1000 * self.cpu_s / max(1, self.count)


@dataclass(frozen=True, slots=True)
class Overload:
    """A phase with requests far beyond the capacity, a healthy Redis and no killed gateway."""

    since_s: float
    until_s: float
    scripts: Scripts
    breakers_opened: int
    """Times a gateway's Redis circuit breaker opened, from the logs."""
    lag_s: float = 0.0
    """Longest lag of the event loop that forwards every byte to Redis. To the gateways, it is a slow Redis."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Redis was unavailable for longer than a lease."""

    since_s: float
    until_s: float
