"""Lists the API keys of all tenants in pages, and those that need attention."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeVar

from gateway.domain.tenants import ApiKey, Limits, Quotas
from gateway.redis import Client, execute
from gateway.tenants.names import TenantNames
from gateway.tenants.records import lookup_record, names_record, read_key, record, use_record
from gateway.tenants.store import batched, grouped

_PLACE: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})/([A-Za-z0-9]{10})?", re.ASCII)
_KEYS_PER_CALL: Final = 2_000
"""Keys per call: about 20 ms to read and decode. A tenant has at most `[api_keys] max_per_tenant`."""
_TENANTS_MAX: Final = 5_000
"""Tenants per page, so that a search without matches ends within about a second."""
_KEYS_MAX: Final = 10_000
"""Keys per page; the last call may exceed it."""
_T = TypeVar("_T")
_DAY_S: Final = 86_400
_AFTER_ALL: Final = "~"
"""Sorts after every key ID."""


class KeyView(Enum):
    """Keys that need attention."""

    UNLIMITED = "unlimited"
    """No limit and no quota of their own; those of the tenant apply."""
    NEVER_EXPIRES = "never_expires"
    IDLE = "idle_90d"
    """Older than 90 days, and not used in 90 days."""
    EXPIRES_SOON = "expires_14d"

    def shows(self, key: ApiKey, now_s: float) -> bool:
        """Returns whether a valid key is in the view. `last_used_at` must be read for IDLE only."""
        match self:
            case KeyView.UNLIMITED:
                return (key.limits, key.quotas) == (Limits(), Quotas())
            case KeyView.NEVER_EXPIRES:
                return key.expires_at is None
            case KeyView.IDLE:
                return max(key.created_at, key.last_used_at or 0) < now_s - 90 * _DAY_S
            case KeyView.EXPIRES_SOON:
                return key.expires_at is not None and key.expires_at < now_s + 14 * _DAY_S


@dataclass(frozen=True, slots=True, order=True)
class KeyPlace:
    """Position in the list: a tenant's ID, and one of its keys or the end of them."""

    tenant: str
    key_id: str = _AFTER_ALL

    @staticmethod
    def parse(text: str) -> "KeyPlace | None":
        found = _PLACE.fullmatch(text)
        return KeyPlace(found[1], found[2] or _AFTER_ALL) if found else None

    def __str__(self) -> str:
        return f"{self.tenant}/{self.key_id.removeprefix(_AFTER_ALL)}"


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys with the current names of their tenants; `next` continues after them."""

    keys: tuple[ApiKey, ...]
    next: KeyPlace | None


class KeyList:
    """Reads the valid keys of all tenants by tenant, then ID."""

    def __init__(self, redis: Client, names: TenantNames, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._names = names
        self._clock = clock

    async def page(
        self, tenant: str | None, search: str, view: KeyView | None, limit: int, after: KeyPlace | None
    ) -> KeyPage:
        """Returns the keys after `after` that match, at most `limit`, of a tenant's ID or of all.

        `search` is a part of label, ID or tenant's name in any case. A page reads at most 5,000 tenants or about
        10,000 keys, so it may have fewer keys, or none, and a `next`.
        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: the set of all tenants, two round trips per 100 tenants, more if they have over 2,000 keys, and one per
        1,000 keys whose last use is read.
        """
        names = await self._names.all_current()
        ids = [tenant] if tenant else sorted(await self._tenants())
        remaining = [name for name in ids if after is None or name >= after.tenant]
        found: list[ApiKey] = []
        read = 0
        place = after
        for batch in batched(remaining[:_TENANTS_MAX]):
            for group in grouped(batch, await self._each(list[int], "HLEN", batch), _KEYS_PER_CALL):
                texts = await self._each(list[dict[str, str]], "HGETALL", group)
                keys = self._valid(group, texts, after)
                matching = [key for key in keys if _matches(key, names.get(key.tenant, key.tenant), search)]
                found += await self._viewed(matching, view)
                read += sum(map(len, texts))
                place = KeyPlace(group[-1])
                if len(found) > limit:
                    last = found[limit - 1]
                    return await self._page(found[:limit], names, KeyPlace(last.tenant, last.id))
                if read >= _KEYS_MAX and group[-1] != remaining[-1]:
                    return await self._page(found, names, place)
        return await self._page(found, names, place if len(remaining) > _TENANTS_MAX else None)

    async def last_used(self, keys: list[ApiKey]) -> list[ApiKey]:
        """Returns the keys with their last use. Raises: GatewayError REDIS_UNAVAILABLE."""
        used: list[str | None] = []
        for start in range(0, len(keys), 1000):
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                pipeline.get(use_record(self._redis, key.tenant, key.id))
            used += await execute(self._redis, pipeline.execute(), list[str | None])
        return [replace(key, last_used_at=int(at) if at else None) for key, at in zip(keys, used, strict=True)]

    async def labels(self, key_ids: Sequence[str]) -> dict[str, str]:
        """Returns the labels of the keys that exist, by ID. Raises: GatewayError REDIS_UNAVAILABLE.

        Redis: two round trips per 1,000 keys.
        """
        found: dict[str, str] = {}
        for start in range(0, len(key_ids), 1000):
            some = key_ids[start : start + 1000]
            pipeline = self._redis.pipeline(transaction=False)
            for key_id in some:
                pipeline.get(lookup_record(self._redis, key_id))
            owners = await execute(self._redis, pipeline.execute(), list[str | None])
            owned = [(tenant, key_id) for key_id, tenant in zip(some, owners, strict=True) if tenant]
            pipeline = self._redis.pipeline(transaction=False)
            for tenant, key_id in owned:
                pipeline.hget(record(self._redis, tenant, "keys"), key_id)
            texts = await execute(self._redis, pipeline.execute(), list[str | None]) if owned else []
            found |= {
                key_id: read_key(text).key(key_id, tenant).label
                for (tenant, key_id), text in zip(owned, texts, strict=True)
                if text
            }
        return found

    async def _page(self, keys: list[ApiKey], names: dict[str, str], following: KeyPlace | None) -> KeyPage:
        shown = (replace(key, tenant=names.get(key.tenant, key.tenant)) for key in await self.last_used(keys))
        return KeyPage(tuple(shown), following)

    def _valid(self, tenants: list[str], texts: list[dict[str, str]], after: KeyPlace | None) -> list[ApiKey]:
        now_s = self._clock()
        found = []
        for tenant, keys in zip(tenants, texts, strict=True):
            for key_id in sorted(keys):
                if after is None or KeyPlace(tenant, key_id) > after:
                    key = read_key(keys[key_id]).key(key_id, tenant)
                    has_old = key.old_secret_until is not None and key.old_secret_until > now_s
                    if key.expires_at is None or key.expires_at > now_s:
                        found.append(key if has_old else replace(key, old_secret_until=None))
        return found

    async def _viewed(self, keys: list[ApiKey], view: KeyView | None) -> list[ApiKey]:
        if view is None:
            return keys
        if view is KeyView.IDLE:
            keys = await self.last_used(keys)
        now_s = self._clock()
        return [key for key in keys if view.shows(key, now_s)]

    async def _tenants(self) -> set[str]:
        return await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])

    async def _each(self, kind: type[list[_T]], command: str, tenants: list[str]) -> list[_T]:
        pipeline = self._redis.pipeline(transaction=False)
        for tenant in tenants:
            pipeline.execute_command(command, record(self._redis, tenant, "keys"))
        return await execute(self._redis, pipeline.execute(), kind)


def _matches(key: ApiKey, tenant: str, search: str) -> bool:
    wanted = search.casefold()
    return any(wanted in text.casefold() for text in (key.label, key.id, tenant))
