"""Reads the audit log: one stream per tenant and per upstream, merged newest first.

The *owner* of a stream is a tenant's name, or "pool:UPSTREAM", "events:" or "console:", which are no valid tenant
names.
"""

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.roles import AuditScope
from gateway.redis import Client, execute
from gateway.tenants.records import record
from gateway.tenants.store import batched

_CURSOR: Final = re.compile(
    r"(?!0+-0+@)(\d{1,19})-(\d{1,19})@((?:pool:)?[a-z0-9][a-z0-9._-]{0,62}|events:|console:)", re.ASCII
)
_POOL: Final = "pool:"
_ENTRIES_PER_READING: Final = 200
_READINGS_MAX: Final = 10
"""With a filter that entries may not match: per page, so that a rare actor does not make Redis read the whole log."""
ENDPOINTS: Final = "events:"
"""The owner of changes to the endpoints of events."""
CONSOLE: Final = "console:"
"""The owner of changes to one-time links and sessions of the console."""
_SHOWN: Final = {ENDPOINTS: "webhooks", CONSOLE: "console"}


def pool_owner(upstream: str) -> str:
    """Returns the owner under which changes to an upstream's accounts and keys are stored."""
    return _POOL + upstream


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


@dataclass(frozen=True, slots=True)
class Page:
    """Entries as the admin API returns them; `next` continues after them."""

    entries: list[dict[str, object]]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Selects entries. An action that ends in "." selects all that begin with it."""

    actor: str | None = None
    action: str | None = None
    first_ms: int = 0
    """Unix milliseconds of the oldest entry."""
    end: Cursor | None = None
    """Exclusive."""
    scope: AuditScope | None = None

    @property
    def is_sparse(self) -> bool:
        """Returns whether entries may not match."""
        return bool(self.actor or self.action or self.scope)

    def matches(self, fields: Mapping[str, str]) -> bool:
        if self.actor not in {None, fields["actor"]}:
            return False
        if self.scope and not self.scope.shows(fields["action"], *map(_described, (fields["before"], fields["after"]))):
            return False
        if self.action and self.action.endswith("."):
            return fields["action"].startswith(self.action)
        return self.action in {None, fields["action"]}


EVERY: Final = AuditFilter()


class Audit:
    """The audit log."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def length(self, owner: str) -> int:
        """Returns the number of entries of an owner. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await execute(self._redis, self._redis.xlen(record(self._redis, owner, "audit")), int)

    async def page(self, owners: set[str], limit: int, before: Cursor | None, wanted: AuditFilter = EVERY) -> Page:
        """Returns the newest entries below `before` that are wanted, at most `limit`.

        A filter by actor, action or scope reads at most 2,000 entries, so a page may have fewer, or none, and a `next`.
        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per hundred owners, at most 10 with such a filter; reads only entries that can be among
        the newest.
        """
        before = min((place for place in (before, wanted.end) if place), default=None)
        count = _ENTRIES_PER_READING if wanted.is_sparse else limit
        found: list[dict[str, object]] = []
        for _ in range(_READINGS_MAX if wanted.is_sparse else 1):
            newest = await self._newest(owners, count + 1, before, wanted.first_ms)
            for place, fields in newest[:count]:
                before = place
                if wanted.matches(fields):
                    found.append(_render(place, fields))
                if len(found) == limit:
                    return Page(found, place if place != newest[-1][0] else None)
            if len(newest) <= count:
                return Page(found, None)
        return Page(found, before)

    async def _newest(
        self, owners: set[str], limit: int, before: Cursor | None, first_ms: int
    ) -> list[tuple[Cursor, dict[str, str]]]:
        newest: list[tuple[Cursor, dict[str, str]]] = []
        for batch in batched(sorted(owners)):
            oldest = max(first_ms, newest[-1][0].ms if len(newest) >= limit else 0)
            pipeline = self._redis.pipeline(transaction=False)
            for owner in batch:
                end = before.end_for(owner) if before else "+"
                pipeline.xrevrange(record(self._redis, owner, "audit"), end, oldest, count=limit)
            answers = await execute(self._redis, pipeline.execute(), list[list[tuple[str, dict[str, str]]]])
            for owner, entries in zip(batch, answers, strict=True):
                for entry_id, fields in entries:
                    ms, sequence = map(int, entry_id.split("-"))
                    newest.append((Cursor(ms, sequence, owner), fields))
            newest = heapq.nlargest(limit, newest, key=lambda entry: entry[0])
        return newest


def _described(text: str) -> dict[str, object]:
    """Parses an object before or after its change; empty if there was none."""
    found = msgspec.json.decode(text) if text else {}
    return found if isinstance(found, dict) else {}


def _render(at: Cursor, fields: dict[str, str]) -> dict[str, object]:
    """Renders an entry. Either `tenant` or `target` names what was changed; the other is None."""
    pool = at.owner.removeprefix(_POOL) if at.owner.startswith(_POOL) else None
    holder = _SHOWN.get(at.owner, pool)
    return {
        "at": at.ms // 1000,
        "actor": fields["actor"],
        "action": fields["action"],
        "tenant": None if holder else at.owner,
        "key_id": None if holder else fields["key_id"] or None,
        "target": f"{holder}/{fields['key_id']}" if holder else None,
        "before": msgspec.Raw(fields["before"].encode()) if fields["before"] else None,
        "after": msgspec.Raw(fields["after"].encode()) if fields["after"] else None,
        "request_id": fields["request_id"] or None,
    }
