"""Generated pictures, stored as bytes by a random ID until they expire.

The name of a picture's object holds all that its link says: no look-up in Redis finds it. A picture has been paid for
before it is stored, so nothing that fails here fails a request.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import pybase64

from gateway.domain.errors import GatewayError
from gateway.domain.images import Base64Image, Format
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage, StoredObject
from gateway.storage.quota import HOUR_S, StorageQuota

TAG_CHARS: Final = 8
_RANDOM_BYTES: Final = 16
_ROOM_HELD_S: Final = 3600
"""Room that a dead process held is free again in the hour after this."""
_TRIAL_BYTES: Final = 256 * 1024
"""Of an object that is written to see whether the storage takes one. A full disk still takes an empty one."""
EXTENSIONS: Final[Mapping[str, Format]] = MappingProxyType(
    {"jpg": Format.JPEG, "png": Format.PNG, "webp": Format.WEBP, "gif": Format.GIF}
)
_HEADS_AT_ONCE: Final = 8
"""Concurrent requests for the sizes of pictures that are deleted."""
_EXTENSION_OF: Final = {form: extension for extension, form in EXTENSIONS.items()}


def tag_of(tenant: str) -> str:
    """Returns 8 hexadecimal digits that begin the IDs of a tenant's objects, so that they can be found together."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:TAG_CHARS]


def object_name(folder: str, expires_s: int, object_id: str, suffix: str = "") -> str:
    """Returns the name of an object whose ID begins with the tenant's tag. The reaper deletes whole hours."""
    return f"{folder}/{expires_s // HOUR_S}/{object_id[:TAG_CHARS]}/{object_id}{suffix}"


class PictureName(NamedTuple):
    """What finds a picture: its ID, format and expiry in Unix seconds."""

    id: str
    format: Format
    expires_s: int


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture in the storage."""

    id: str
    """40 hexadecimal digits: the tenant's tag and 128 random bits."""
    format: Format
    size_bytes: int
    expires_s: int
    """Unix seconds, a full hour."""

    @property
    def extension(self) -> str:
        return _EXTENSION_OF[self.format]


class PictureStore:
    """The stored pictures of all tenants."""

    def __init__(
        self, objects: ObjectStorage, quota: StorageQuota, budget: ByteBudget, metrics: Metrics, timeout_s: float
    ) -> None:
        self._objects = objects
        self._quota = quota
        self._budget = budget
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def save(
        self, tenant: str, picture: Base64Image | bytes, form: Format, keep_s: int | None = None
    ) -> StoredPicture | None:
        """Stores a picture for `keep_s`, or for the tenant's time. Its caller counts `bytes`; base64 is decoded here.

        Returns: None if it is not stored. The metric `stored_pictures_total` has the reason. Never raises.
        """
        memory = ByteAccount(self._budget, tenant)
        stored, result = None, "cancelled"
        try:
            stored = await self._save(tenant, picture, form, keep_s, memory)
            result = "stored"
        except ValueError:
            result = "unreadable"
        except GatewayError as error:
            result = error.error_code.value
        finally:
            memory.close()
            self._metrics.stored_pictures.labels(result).inc()
        return stored

    @asynccontextmanager
    async def hold_room(self, tenant: str, size_bytes: int) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        """Holds room in the tenant's quota for pictures that are about to be bought.

        Yields: a function that gives the room back, for the pictures; the exit does so too.
        Raises: GatewayError STORAGE_QUOTA_EXHAUSTED, STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE.
        Redis: one round trip, one more to give back.
        """
        if self._objects.breakers["write"].is_open:
            await self._try_storage(tenant)
        expires_s: int | None = await self._quota.take(tenant, size_bytes, _ROOM_HELD_S)

        async def give_back() -> None:
            nonlocal expires_s
            if expires_s is not None:
                held_until_s, expires_s = expires_s, None
                with suppress(GatewayError):
                    await self._quota.give_back(tenant, size_bytes, held_until_s)

        try:
            yield give_back
        finally:
            await give_back()

    async def open(
        self, picture_id: str, form: Format, expires_s: int, start: int = 0, end: int | None = None
    ) -> StoredObject:
        """Opens a picture, or a range of it as `ObjectStorage.get` does.

        Raises: ObjectNotFoundError, UnsatisfiableRangeError, GatewayError STORAGE_UNAVAILABLE.
        """
        return await self._objects.get(_name(picture_id, form, expires_s), start, end)

    async def delete(self, tenant: str, pictures: Collection[PictureName]) -> None:
        """Deletes pictures of a tenant, and gives back the bytes of those that are found. It can be repeated.

        Raises: GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE.
        """
        slots, found = asyncio.Semaphore(_HEADS_AT_ONCE), dict[PictureName, int]()

        async def look(picture: PictureName) -> None:
            async with slots:
                with suppress(ObjectNotFoundError):
                    found[picture] = (await self._objects.head(_name(*picture))).size_bytes

        await asyncio.gather(*map(look, pictures))
        if found:
            counted = [(picture.id, size_bytes, picture.expires_s) for picture, size_bytes in found.items()]
            await self._quota.begin_deletion(tenant, counted)
            await self._objects.delete([_name(*picture) for picture in found])
            await self._quota.end_deletion(tenant, [picture.id for picture in found])

    async def sign(self, picture_id: str, form: Format, expires_s: int, life_s: int) -> str:
        """Returns the bucket's own URL of a picture for `life_s`. Raises: GatewayError STORAGE_UNAVAILABLE."""
        return await self._objects.sign(_name(picture_id, form, expires_s), life_s)

    async def load_base64(self, picture: StoredPicture, memory: ByteAccount) -> memoryview:
        """Returns a picture in base64, which counts in `memory`.

        Raises: ObjectNotFoundError, also if its size differs; GatewayError STORAGE_UNAVAILABLE, TENANT_MEMORY_FULL,
        MEMORY_FULL.
        """
        encoded_bytes = 4 * ((picture.size_bytes + 2) // 3)
        memory.take(encoded_bytes + picture.size_bytes)
        is_loaded = False
        try:
            found = await self.open(picture.id, picture.format, picture.expires_s)
            if found.size_bytes != picture.size_bytes:
                raise ObjectNotFoundError
            data = bytearray()
            async for chunk in found:
                data += chunk
            encoded = await asyncio.to_thread(pybase64.b64encode, data)
            is_loaded = True
            return memoryview(encoded)
        finally:
            memory.note(-picture.size_bytes - (0 if is_loaded else encoded_bytes))

    async def _save(
        self, tenant: str, picture: Base64Image | bytes, form: Format, keep_s: int | None, memory: ByteAccount
    ) -> StoredPicture:
        data = picture if isinstance(picture, bytes) else await self._decode(picture.base64, memory)
        picture_id = tag_of(tenant) + secrets.token_hex(_RANDOM_BYTES)
        expires_s = await self._quota.take(tenant, len(data), keep_s)
        try:
            await self._objects.put(_name(picture_id, form, expires_s), data, f"image/{form.value}")
        except GatewayError:
            with suppress(GatewayError):  # what is not given back is no longer counted when it expires
                await self._quota.give_back(tenant, len(data), expires_s)
            raise
        return StoredPicture(picture_id, form, len(data), expires_s)

    async def _try_storage(self, tenant: str) -> None:
        """Writes and deletes an object. Raises: GatewayError STORAGE_UNAVAILABLE."""
        hour_s = (int(time.time()) // HOUR_S + 1) * HOUR_S
        name = object_name("pictures", hour_s, tag_of(tenant) + secrets.token_hex(_RANDOM_BYTES))
        await self._objects.put(name, bytes(_TRIAL_BYTES), "application/octet-stream")
        with suppress(GatewayError):  # the reaper deletes it
            await self._objects.delete([name])

    async def _decode(self, encoded: memoryview, memory: ByteAccount) -> bytes:
        """Returns the bytes of a picture, as soon as there is memory for them. Raises: GatewayError MEMORY_FULL."""
        await memory.wait_within(len(encoded) * 3 // 4, self._timeout_s)
        return await asyncio.to_thread(pybase64.b64decode, encoded, validate=True)


def _name(picture_id: str, form: Format, expires_s: int) -> str:
    return object_name("pictures", expires_s, picture_id, f".{_EXTENSION_OF[form]}")
