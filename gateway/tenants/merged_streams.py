"""Reads one kind of stream of many owners, merged newest first.

The *owner* of a stream is a tenant's name, or one with ":", as "pool:UPSTREAM" or "events:", which no tenant has.
"""

import heapq
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.redis import Client, execute
from gateway.tenants.records import record
from gateway.tenants.store import batched

_CURSOR: Final = re.compile(
    r"(?!0+-0+@)(\d{1,19})-(\d{1,19})@((?:pool:)?[a-z0-9][a-z0-9._-]{0,62}|(?:events|console|refusals):)", re.ASCII
)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """Position of an entry: its time, then its owner."""

    ms: int
    """Unix milliseconds."""
    sequence: int
    owner: str

    @staticmethod
    def parse(text: str) -> "Cursor | None":
        found = _CURSOR.fullmatch(text)
        return Cursor(int(found[1]), int(found[2]), found[3]) if found else None

    def __str__(self) -> str:
        return f"{self.ms}-{self.sequence}@{self.owner}"

    def end_for(self, owner: str) -> str:
        """Returns the exclusive upper bound of an owner's entry IDs below this position."""
        return f"{'' if owner < self.owner else '('}{self.ms}-{self.sequence}"


Entry = tuple[Cursor, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects entries."""

    first_ms: int = 0
    """Unix milliseconds of the oldest entry."""
    end: Cursor | None = None
    """Exclusive."""
    matches: Callable[[Mapping[str, str]], bool] | None = None
    """None: all."""


@dataclass(frozen=True, slots=True, repr=False)
class MergedStreams:
    """Streams of one kind."""

    redis: Client
    kind: str
    """The last part of their names."""
    entries_per_reading: int
    readings_max: int
    """With `matches`: per page, so that a rare entry does not make Redis read everything."""

    async def page(self, owners: set[str], limit: int, wanted: Selection) -> tuple[list[Entry], Cursor | None]:
        """Returns the newest entries that are wanted, at most `limit`, and the `end` of the next page; None at the end.

        With `matches`, a page may have fewer entries, or none, and a next one.
        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per hundred owners, at most `readings_max` with `matches`; reads only entries that can be
        among the newest.
        """
        before, matches = wanted.end, wanted.matches
        count = self.entries_per_reading if matches else limit
        found: list[Entry] = []
        for _ in range(self.readings_max if matches else 1):
            newest = await self._newest(owners, count + 1, before, wanted.first_ms)
            for entry in newest[:count]:
                before = entry[0]
                if matches is None or matches(entry[1]):
                    found.append(entry)
                if len(found) == limit:
                    return found, before if before != newest[-1][0] else None
            if len(newest) <= count:
                return found, None
        return found, before

    async def _newest(self, owners: set[str], limit: int, before: Cursor | None, first_ms: int) -> list[Entry]:
        newest: list[Entry] = []
        for batch in batched(sorted(owners)):
            oldest = max(first_ms, newest[-1][0].ms if len(newest) >= limit else 0)
            pipeline = self.redis.pipeline(transaction=False)
            for owner in batch:
                end = before.end_for(owner) if before else "+"
                pipeline.xrevrange(record(self.redis, owner, self.kind), end, oldest, count=limit)
            answers = await execute(self.redis, pipeline.execute(), list[list[tuple[str, dict[str, str]]]])
            for owner, entries in zip(batch, answers, strict=True):
                for entry_id, fields in entries:
                    ms, sequence = map(int, entry_id.split("-"))
                    newest.append((Cursor(ms, sequence, owner), fields))
            newest = heapq.nlargest(limit, newest, key=lambda entry: entry[0])
        return newest
