"""Tasks: calls that a provider accepts first and ends later. The gateway submits one, and polls it until it ends."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A task that a provider has accepted."""

    id: str
    poll_url: str = ""
    """Where the provider says that its state is; only a trusted one is used."""
    stated_usd_micros: int | None = None  # what it costs, if the provider says so at once


@dataclass(frozen=True, slots=True)
class PollRhythm:
    """When a provider's tasks are polled; seconds."""

    first_s: float
    """Before the first poll."""
    interval_s: float
    """Before the second; each further wait is `factor` times longer."""
    factor: float
    longest_s: float
    expires_s: float
    """After this time a task that has not ended counts as lost: the provider has forgotten it."""

    def waits(self) -> Iterator[float]:
        """Yields the time before each poll, without end."""
        yield self.first_s
        wait_s = self.interval_s
        while True:
            yield wait_s
            wait_s = min(self.longest_s, wait_s * self.factor)
