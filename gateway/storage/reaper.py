"""Deletes stored objects whose hour has passed, and those of tenants that were deleted. One process at a time does.

A directory also holds unfinished files of processes that were killed; they go with their hour.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from gateway.domain.errors import GatewayError
from gateway.redis import Client, LeaderLock, execute
from gateway.storage.objects import PAGE, ObjectStorage
from gateway.storage.pictures import tag_of
from gateway.storage.quota import HOUR_S
from gateway.tenants.records import names_record, record

_LOG = structlog.get_logger("imagegate.storage")
FOLDERS: Final = ("pictures", "files")
"""Of both, the name of an object is FOLDER/HOUR/TAG/ID: see pictures.object_name."""
_GRACE_S: Final = 60
"""Seconds after the expiry: clocks differ, and a download may have begun."""
_PAGES_MAX: Final = 100
"""Pages of objects that one round deletes; the next round goes on."""
_ERASURES_TTL_S: Final = 31 * 24 * 3600
"""No object is kept for longer."""


class StorageReaper:
    """Deletes what has expired or was erased."""

    def __init__(
        self, objects: ObjectStorage, redis: Client, lock: LeaderLock, clock: Callable[[], float], *, every_s: float
    ) -> None:
        self._objects = objects
        self._redis = redis
        self._lock = lock
        self._clock = clock
        self._every_s = every_s
        self._erased = f"{redis.prefix}:erased_tenants"

    async def run(self) -> None:
        """Never returns. What a round does not reach, the next one does."""
        while True:
            try:
                if await self._lock.acquire():
                    await self.sweep()
            except GatewayError as error:
                _LOG.warning("storage_sweep_failed", error_code=error.error_code.value, detail=error.detail)
            await asyncio.sleep(self._every_s)

    async def erase(self, tenant: str) -> None:
        """Has all that a tenant has stored until now deleted by the next rounds, and counts its bytes from 0.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip each for the tenant and the gateway.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sadd(self._erased, f"{math.ceil(self._clock())} {tenant}")
        pipeline.expire(self._erased, _ERASURES_TTL_S)
        await execute(self._redis, pipeline.execute(), object)
        await execute(self._redis, self._redis.delete(record(self._redis, tenant, "stored")), int)

    async def sweep(self) -> int:
        """Returns the number of deleted objects. Raises: GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE."""
        erasures = await execute(self._redis, self._redis.smembers(self._erased), set[str])
        tags = await self._tags(erasures) if erasures else {}
        passed, kept = list[str](), list[str]()
        for folder in FOLDERS:
            for hour in filter(str.isdecimal, await self._objects.list_folders(folder)):
                is_passed = int(hour) * HOUR_S + _GRACE_S <= self._clock()
                (passed if is_passed else kept).append(f"{folder}/{hour}")
        deleted, page = 0, list[str]()
        async for name in self._find(passed, kept, tags):
            page.append(name)
            if len(page) == PAGE:
                await self._objects.delete(page)
                deleted, page = deleted + PAGE, []
                if deleted == _PAGES_MAX * PAGE or not await self._lock.renew():
                    return deleted
        await self._objects.delete(page)
        for folder in passed:
            await self._objects.remove_folder(folder)
        if erasures:
            await execute(self._redis, self._redis.srem(self._erased, *erasures), int)
        return deleted + len(page)

    async def _find(self, passed: Sequence[str], kept: Sequence[str], tags: Mapping[str, int]) -> AsyncGenerator[str]:
        """Yields the names of the objects in passed hours, and of older ones than the erasure of their tenant."""
        for folder in passed:
            async for found in self._objects.list(folder):
                yield found.name
        for tag, erased_s in tags.items():
            for folder in kept:
                async for found in self._objects.list(f"{folder}/{tag}"):
                    if found.modified_at.timestamp() <= erased_s:
                        yield found.name

    async def _tags(self, erasures: Iterable[str]) -> Mapping[str, int]:
        """Returns the tags of erased tenants, with the Unix second. Objects whose tag two tenants share expire."""
        names = await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])
        owners, found = Counter(map(tag_of, names)), dict[str, int]()
        for erased_s, _, tenant in (erasure.partition(" ") for erasure in sorted(erasures)):
            if owners[tag_of(tenant)] < 2:
                found[tag_of(tenant)] = int(erased_s)
        return found
