"""Deletes stored objects whose hour has passed, and those of tenants that were deleted. One process at a time does.

The erasure of a tenant lasts until none of what it has begun can store anything more. Nothing is stored for it
meanwhile, and every round deletes all that is found.

A directory also holds unfinished files of processes that were killed; they go with their hour.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from gateway.domain.errors import GatewayError
from gateway.redis import Client, LeaderLock, execute
from gateway.storage.objects import PAGE, ObjectStorage
from gateway.storage.pictures import tag_of
from gateway.storage.quota import ERASURE_TTL_S, HOUR_S, StorageQuota
from gateway.tenants.records import names_record

_LOG = structlog.get_logger("imagegate.storage")
FOLDERS: Final = ("pictures", "files")
"""Of both, the name of an object is FOLDER/HOUR/TAG/ID: see pictures.object_name."""
_GRACE_S: Final = 60
"""Seconds after the expiry: clocks differ, and a download may have begun."""
_PAGES_MAX: Final = 100
"""Pages of objects that one round deletes; the next round goes on."""

EndWork = Callable[[str, int], Awaitable[bool]]
"""Ends what a deleted tenant had begun until a Unix second; returns True once nothing of it is left."""


class StorageReaper:
    """Deletes what has expired or was erased."""

    def __init__(
        self,
        objects: ObjectStorage,
        redis: Client,
        quota: StorageQuota,
        lock: LeaderLock,
        clock: Callable[[], float],
        end_work: EndWork,
        *,
        every_s: float,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`chores` delete what else is to be deleted, before each round."""
        self._objects = objects
        self._redis = redis
        self._quota = quota
        self._lock = lock
        self._clock = clock
        self._end_work = end_work
        self._every_s = every_s
        self._chores = chores
        self._erased = f"{redis.prefix}:erased_tenants"
        self._settled: set[str] = set()
        """Tenants of which nothing was left to end at the last round; the next one deletes what was on its way."""

    async def run(self) -> None:
        """Never returns. What a round does not reach, the next one does."""
        while True:
            try:
                if await self._lock.acquire():
                    for chore in self._chores:
                        await chore()
                    await self.sweep()
            except GatewayError as error:
                _LOG.warning("storage_sweep_failed", error_code=error.error_code.value, detail=error.detail)
            await asyncio.sleep(self._every_s)

    async def erase(self, tenant: str) -> None:
        """Begins to delete all that a tenant has stored, and to end what would store more. The rounds go on.

        Raises: GatewayError REDIS_UNAVAILABLE; repeat it then.
        """
        began_s = math.ceil(self._clock())
        await self._quota.begin_erasure(tenant, began_s)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sadd(self._erased, f"{began_s} {tenant}")
        pipeline.expire(self._erased, ERASURE_TTL_S)
        await execute(self._redis, pipeline.execute(), object)
        await self._end_work(tenant, began_s)

    async def sweep(self) -> int:
        """Returns the number of deleted objects. Raises: GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE."""
        erasures = await execute(self._redis, self._redis.smembers(self._erased), set[str])
        erased = await self._read(erasures)
        settled = {tenant for tenant, began_s in erased.items() if await self._end_work(tenant, began_s)}
        tags = await self._tags(erased) if erased else []
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
        done = settled & self._settled
        self._settled = settled - done
        for tenant in sorted(done):
            await self._quota.end_erasure(tenant)
            _LOG.info("tenant_erased", tenant=tenant)
        if ended := [erasure for erasure in erasures if erasure.partition(" ")[2] not in erased.keys() - done]:
            await execute(self._redis, self._redis.srem(self._erased, *ended), int)
        return deleted + len(page)

    async def _find(self, passed: Sequence[str], kept: Sequence[str], tags: Sequence[str]) -> AsyncGenerator[str]:
        """Yields the names of the objects in passed hours, and of those of tenants that are erased."""
        for folder in passed:
            async for found in self._objects.list(folder):
                yield found.name
        for tag in tags:
            for folder in kept:
                async for found in self._objects.list(f"{folder}/{tag}"):
                    yield found.name

    async def _read(self, erasures: Iterable[str]) -> dict[str, int]:
        """Returns the tenants that are erased, with the Unix second. One whose erasure has ended may store again."""
        found = dict[str, int]()
        for tenant in {erasure.partition(" ")[2] for erasure in erasures}:
            if began_s := await self._quota.erasing_since(tenant):
                found[tenant] = began_s
        return found

    async def _tags(self, tenants: Iterable[str]) -> Sequence[str]:
        """Returns the tags of tenants. Objects whose tag two tenants share expire."""
        names = await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])
        owners = Counter(map(tag_of, names))
        return [tag for tag in sorted(map(tag_of, tenants)) if owners[tag] < 2]
