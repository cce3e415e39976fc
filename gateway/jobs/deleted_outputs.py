"""Pictures of deleted output files, which are deleted with them.

The call that deletes a file begins with them, as far as its time goes. The reaper's rounds delete the rest: what is to
be done is in Redis before the file's record goes.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.domain.errors import GatewayError
from gateway.jobs.batch_input import read_lines
from gateway.jobs.batch_output import LINE_MAX_BYTES, find_pictures
from gateway.jobs.file_records import FileRecord
from gateway.redis import Client, execute
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage
from gateway.storage.pictures import PictureName, PictureStore

_CALL_S: Final = 5.0
"""Time of the call that deletes a file."""
_LEFT_S: Final = 60.0
"""After it, the rest is the reaper's."""
_PAGE: Final = 64
"""Pictures that are deleted together."""
_MANIFESTS_PER_ROUND: Final = 100
_TTL_S: Final = 31 * 24 * 3600
"""No picture is kept for longer."""


class DeletedOutputs:
    """The deleted output files of all tenants, until their pictures are deleted."""

    def __init__(
        self, redis: Client, objects: ObjectStorage, pictures: PictureStore, clock: Callable[[], float]
    ) -> None:
        self._redis, self._objects, self._pictures, self._clock = redis, objects, pictures, clock
        self._name = f"{redis.prefix}:deleted_outputs"

    async def add(self, record: FileRecord) -> None:
        """Has the pictures of a file deleted, by whichever process. Raises: GatewayError REDIS_UNAVAILABLE."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(self._name, {f"{record.tenant} {record.objects[0]}": self._clock() + _LEFT_S})
        pipeline.expire(self._name, _TTL_S)
        await execute(self._redis, pipeline.execute(), object)

    async def begin(self, record: FileRecord) -> None:
        """Deletes what can be deleted within 5 s."""
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_CALL_S):
                await self._delete(record.tenant, record.objects[0])

    async def sweep(self) -> None:
        """Deletes the rest. Raises: GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE."""
        call = self._redis.zrangebyscore(self._name, "-inf", self._clock(), start=0, num=_MANIFESTS_PER_ROUND)
        for member in await execute(self._redis, call, list[str]):
            tenant, _, manifest = member.partition(" ")
            await self._delete(tenant, manifest)

    async def _delete(self, tenant: str, manifest: str) -> None:
        """Deletes the pictures that a manifest names, and then the manifest. It can be repeated."""
        page = set[PictureName]()
        with suppress(ObjectNotFoundError):
            async for _, _, line in read_lines(aiter(await self._objects.get(manifest)), LINE_MAX_BYTES):
                page.update(find_pictures(bytes(line or b""), tenant))
                if len(page) >= _PAGE:
                    await self._pictures.delete(tenant, page)
                    page.clear()
        await self._pictures.delete(tenant, page)
        await self._objects.delete([manifest])
        await execute(self._redis, self._redis.zrem(self._name, f"{tenant} {manifest}"), int)
