"""Phases of a run of which the audit claims more than of the rest, or less."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scripts:
    """The Lua scripts that Redis ran in a phase."""

    count: int
    commands: int
    """What they called, and the few commands that came by themselves."""
    cpu_s: float
    """Of Redis as a whole."""
    slowest_s: float
    """By the clock; 0 if none took 1 ms."""

    @property
    def commands_each(self) -> float:
        """On average."""
        return self.commands / max(1, self.count)

    @property
    def cpu_ms_each(self) -> float:
        """On average."""
        return 1000 * self.cpu_s / max(1, self.count)


@dataclass(frozen=True, slots=True)
class Overload:
    """A phase in which requests far beyond the capacity came, Redis was well, and no gateway was killed."""

    since_s: float
    until_s: float
    scripts: Scripts
    breakers_opened: int
    """How often a gateway's circuit breaker for Redis opened, from the logs."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Redis was unavailable for longer than a lease."""

    since_s: float
    until_s: float
