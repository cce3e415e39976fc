"""Bytes that each tenant stores, counted in Redis by the hour in which they expire.

Invariant: what expires is no longer counted, also if the process that stored it is gone. While a tenant is erased,
nothing is stored for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, Value, execute, load_script
from gateway.tenants.records import record

HOUR_S: Final = 3600
STORED: Final = ("storage/stored",)
"""What stands before the scripts that take stored bytes back."""
ERASURE_TTL_S: Final = 31 * 24 * 3600
"""No object is kept for longer."""


@dataclass(frozen=True, slots=True)
class StorageTerms:
    """What applies to tenants without terms of their own."""

    keep_hours: int
    max_bytes: int


class StorageQuota:
    """The stored bytes of all tenants. Each call raises GatewayError REDIS_UNAVAILABLE."""

    def __init__(self, redis: Client, terms: StorageTerms) -> None:
        self._redis = redis
        self._terms = terms
        self._take = load_script(redis, "storage/take_room")
        self._give_back = load_script(redis, "storage/give_back", STORED)
        self._begin_deletion = load_script(redis, "storage/begin_deletion", STORED)

    async def take(
        self, tenant: str, size_bytes: int, keep_s: int | None = None, expires_s: int = 0, holder: str = ""
    ) -> int:
        """Counts bytes before they are stored. A later call for the same object passes its `expires_s`.

        `holder`: the kind of the tenant's hash that remembers them, so that a repeated call counts nothing.

        Returns: when they expire, in Unix seconds: the first full hour after `keep_s`, or after the tenant's time.
        Raises: GatewayError STORAGE_QUOTA_EXHAUSTED, or STORAGE_UNAVAILABLE during an erasure, and nothing is counted.
        Redis: one round trip, lua/take_room.lua.
        """
        kinds = ("tenant", "stored", "erasing", *([holder] if holder else []))
        keys = [record(self._redis, tenant, kind) for kind in kinds]
        terms = self._terms
        args = [size_bytes, keep_s or 0, terms.keep_hours, terms.max_bytes, expires_s // HOUR_S]
        hour, max_bytes = cast("list[int]", await self._take(keys, [*args]))
        if max_bytes < 0:
            raise GatewayError(ErrorCode.STORAGE_UNAVAILABLE, "what the tenant has stored is being deleted")
        if not hour:
            message = (
                f"The tenant's stored files would exceed {max_bytes} bytes. Delete some, or wait for their expiry."
            )
            raise GatewayError(ErrorCode.STORAGE_QUOTA_EXHAUSTED, message)
        return hour * HOUR_S

    async def give_back(self, tenant: str, size_bytes: int, expires_s: int, holder: str = "") -> None:
        """Takes back bytes that were deleted, or not stored; those of a holder once.

        Redis: one round trip, lua/give_back.lua.
        """
        keys = [record(self._redis, tenant, kind) for kind in ("stored", *([holder] if holder else []))]
        await self._give_back(keys, [expires_s // HOUR_S, size_bytes])

    async def begin_deletion(self, tenant: str, pictures: Iterable[tuple[str, int, int]]) -> None:
        """Takes back the bytes of pictures before they are deleted, however often that is repeated.

        `pictures`: ID, bytes and expiry in Unix seconds. Redis: one round trip, lua/begin_deletion.lua.
        """
        keys = [record(self._redis, tenant, kind) for kind in ("stored", "deleting")]
        args: list[Value] = [ERASURE_TTL_S]
        for picture_id, size_bytes, expires_s in pictures:
            args += [picture_id, expires_s // HOUR_S, size_bytes]
        await self._begin_deletion(keys, args)

    async def end_deletion(self, tenant: str, picture_ids: Iterable[str]) -> None:
        """Forgets pictures that are deleted. Redis: one round trip."""
        name = record(self._redis, tenant, "deleting")
        await execute(self._redis, self._redis.srem(name, *picture_ids), int)

    async def stored_bytes(self, tenant: str, now_s: float) -> int:
        """Returns the bytes that a tenant stores. Redis: one round trip."""
        counted = await execute(self._redis, self._redis.hgetall(record(self._redis, tenant, "stored")), dict[str, str])
        return sum(int(size) for hour, size in counted.items() if int(hour) * HOUR_S > now_s)

    async def begin_erasure(self, tenant: str, began_s: int) -> None:
        """Lets nothing be stored for a tenant until `end_erasure`. Redis: one round trip."""
        name = record(self._redis, tenant, "erasing")
        await execute(self._redis, self._redis.set(name, began_s, ex=ERASURE_TTL_S), object)

    async def end_erasure(self, tenant: str) -> None:
        """Lets a tenant store again, and counts from 0. Redis: one round trip."""
        names = [record(self._redis, tenant, kind) for kind in ("stored", "erasing")]
        await execute(self._redis, self._redis.delete(*names), int)

    async def erasing_since(self, tenant: str) -> int | None:
        """Returns when the erasure of a tenant began, in Unix seconds; None if none goes on. Redis: one round trip."""
        began_s = await execute(self._redis, self._redis.get(record(self._redis, tenant, "erasing")), object)
        return None if began_s is None else int(str(began_s))
