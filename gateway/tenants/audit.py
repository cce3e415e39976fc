"""Reads the audit log: one stream per tenant and per upstream, merged newest first.

The *owner* of a stream is a tenant's name, or "pool:UPSTREAM", "events:" or "console:", which are no valid tenant
names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.roles import AuditScope
from gateway.redis import Client, execute
from gateway.tenants.merged_streams import Cursor, MergedStreams, Selection
from gateway.tenants.records import record

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
        self._streams = MergedStreams(redis, "audit", _ENTRIES_PER_READING, _READINGS_MAX)

    async def length(self, owner: str) -> int:
        """Returns the number of entries of an owner. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await execute(self._redis, self._redis.xlen(record(self._redis, owner, "audit")), int)

    async def page(self, owners: set[str], limit: int, before: Cursor | None, wanted: AuditFilter = EVERY) -> Page:
        """Returns the newest entries below `before` that are wanted, at most `limit`.

        A filter by actor, action or scope reads at most 2,000 entries, so a page may have fewer, or none, and a `next`.
        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per hundred owners, at most 10 with such a filter.
        """
        end = min((place for place in (before, wanted.end) if place), default=None)
        matches = wanted.matches if wanted.is_sparse else None
        found, following = await self._streams.page(owners, limit, Selection(wanted.first_ms, end, matches))
        return Page([_render(*entry) for entry in found], following)


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
