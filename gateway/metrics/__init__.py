"""Metrics: what every part of the program counts, and how it is told.

families.py is the table of all of them, books.py keeps the numbers, instruments.py counts, text.py tells.
Invariant: whichever process of a gateway is asked tells the sum of all of them.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from gateway.metrics import families
from gateway.metrics.books import Book, OwnPage, SharedBook, SharedPage, find_pages
from gateway.metrics.families import FAMILIES, Family, Kind
from gateway.metrics.instruments import Count, Labelled, Level, Timer
from gateway.metrics.tenants import Tenants
from gateway.metrics.text import CONTENT_TYPE, Totals, Truth

__all__ = [
    "CONNECTIONS",
    "CONNECTIONS_OVER_BOUND",
    "CONTENT_TYPE",
    "FAMILIES",
    "Count",
    "Labelled",
    "Level",
    "Metrics",
    "Truth",
]

CONNECTIONS: Final = "connections"
"""Under this name the server finds, in the state of the program's lifespan, the level that it is to keep."""
CONNECTIONS_OVER_BOUND: Final = "connections_over_bound"
"""Likewise what it refuses or closes at a bound."""
_TENANTS_MAX: Final = 200
_LIVE: Final = frozenset(family.name for family in FAMILIES if family.kind is Kind.LIVE)


class Metrics:
    """Built once in a process and handed to whoever counts."""

    def __init__(self, directory: Path | None = None, tenants_max: int = _TENANTS_MAX) -> None:
        """Several processes of one gateway count in one `directory`; a single one needs none.

        Raises: OSError where the directory cannot be used.
        """
        self._directory = directory
        self._book = SharedBook(directory, _is_live) if directory else Book()
        self._tenants = Tenants(tenants_max, directory / "tenants" if directory else None)
        self._own_page = OwnPage(self._book)
        self._pages: dict[Path, SharedPage] = {}
        self._totals = Totals(FAMILIES)
        self._series_refused = self._count(families.SERIES_REFUSED)

        self.requests = self._counts(families.REQUESTS)
        self.request_seconds = self._timers(families.REQUEST_SECONDS)
        self.requests_in_progress = self._level(families.REQUESTS_IN_PROGRESS)
        self.connections = self._level(families.CONNECTIONS)
        self.connections_over_bound = self._counts(families.CONNECTIONS_OVER_BOUND)
        self.refusals = self._counts(families.REFUSALS)
        self.images = self._counts(families.IMAGES)
        self.spend_usd = self._counts(families.SPEND)
        self.settlements = self._counts(families.SETTLEMENTS)
        self.unsettled = self._level(families.UNSETTLED)
        self.overhead_seconds = self._timer(families.OVERHEAD_SECONDS)
        self.queue_seconds = self._timer(families.QUEUE_SECONDS)
        self.wait_seconds = self._timers(families.WAIT_SECONDS)
        self.upstream_seconds = self._timers(families.UPSTREAM_SECONDS)
        self.upstream_replies = self._counts(families.UPSTREAM_REPLIES)
        self.retries = self._counts(families.RETRIES)
        self.spills = self._counts(families.SPILLS)
        self.in_flight = self._levels(families.IN_FLIGHT)
        self.pool_transitions = self._counts(families.POOL_TRANSITIONS)
        self.redis_breaker_open = self._level(families.REDIS_BREAKER_OPEN)
        self.processes = self._level(families.PROCESSES)
        self.loop_lag_seconds = self._timer(families.LOOP_LAG_SECONDS)
        self.memory_bytes = self._level(families.MEMORY_BYTES)
        self.held_bytes = self._level(families.HELD_BYTES)
        self.open_files = self._level(families.OPEN_FILES)

    def render(self, truths: Iterable[Truth] = ()) -> bytes:
        """Prometheus' text format: the sums of all processes, and what was read just now."""
        return self._totals.render(self._find_pages(), truths)

    def follow(self) -> None:
        """Read what other processes count by now: called now and then, no scrape has much to read."""
        self._totals.follow(self._find_pages())

    def _find_pages(self) -> Collection[OwnPage | SharedPage]:
        if self._directory is None:
            return (self._own_page,)
        find_pages(self._directory, self._pages)
        return self._pages.values()

    def _counts(self, family: Family) -> Labelled[Count]:
        return Labelled(family, self._tenants, lambda names: Count(self._book.numbers, self._place(names)))

    def _levels(self, family: Family) -> Labelled[Level]:
        return Labelled(family, self._tenants, lambda names: Level(self._book.numbers, self._place(names)))

    def _timers(self, family: Family) -> Labelled[Timer]:
        def make(names: Sequence[str]) -> Timer:
            return Timer(self._book.numbers, self._place(names), family.buckets)

        return Labelled(family, self._tenants, make)

    def _count(self, family: Family) -> Count:
        return self._counts(family).labels()

    def _level(self, family: Family) -> Level:
        return self._levels(family).labels()

    def _timer(self, family: Family) -> Timer:
        return self._timers(family).labels()

    def _place(self, names: Sequence[str]) -> int:
        """Where the numbers of these series are; what finds no room is counted nowhere."""
        at = self._book.place(names)
        if at is None:
            self._series_refused.inc()
            return self._book.nowhere
        return at


def _is_live(series: str) -> bool:
    return series.partition("{")[0] in _LIVE
