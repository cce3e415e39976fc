"""Contents of files as they arrive: stored in parts of 8 MiB, one of which is in memory.

Each part is a whole object, so that a bucket never has an incomplete multipart upload. The names of the parts say that
they expire within hours, until the upload has ended: what a killed process leaves is reaped like all that has expired.
The tenant's bytes count for hours, too, until the record of the file counts them for its life.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage
from gateway.storage.pictures import object_name, tag_of
from gateway.storage.quota import StorageQuota

PART_BYTES: Final = 8 * 1024 * 1024
"""The storage sends an object of this size in one request."""
_UNFINISHED_S: Final = 6 * 3600
"""Time in which the parts of an unfinished upload expire."""
_CONTENT_TYPE: Final = "application/octet-stream"


def part_name(tenant: str, file_id: str, expires_s: int, index: int) -> str:
    return object_name("files", expires_s, tag_of(tenant) + file_id, f".{index}")


@dataclass(slots=True, eq=False, repr=False)
class Upload:
    """A content that arrives. Call `finish` when it is complete, and `discard` after any failure.

    Each call raises GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE.
    """

    objects: ObjectStorage
    quota: StorageQuota
    tenant: str
    id: str
    """32 hexadecimal digits."""
    memory: ByteAccount
    """Counts the part in memory."""
    digest: "hashlib._Hash | None" = None
    """Of the content, if it is wanted."""
    size_bytes: int = 0
    _part: bytearray = field(default_factory=bytearray)
    _parts: list[str] = field(default_factory=list)
    """The names of the stored parts."""
    _left: list[str] = field(default_factory=list)
    """Every name under which something may be stored."""
    unfinished_s: int = 0
    """Until then the bytes count if no file is made of them, Unix seconds."""
    _counted_bytes: int = 0

    @property
    def file_id(self) -> str:
        return f"file-{self.id}"

    async def append(self, data: bytearray) -> None:
        """Raises: GatewayError STORAGE_QUOTA_EXHAUSTED, TENANT_MEMORY_FULL, MEMORY_FULL."""
        self.memory.take(len(data))
        self.size_bytes += len(data)
        if self.digest:
            self.digest.update(data)
        rest = memoryview(data)
        while len(self._part) + len(rest) >= PART_BYTES:
            room = PART_BYTES - len(self._part)
            self._part += rest[:room]
            rest = rest[room:]
            await self._take(PART_BYTES)
            await self._store_part(self.unfinished_s)
        self._part += rest

    async def finish(self, stored_until: int) -> None:
        """Stores the rest, and gives all parts their final names, which say `stored_until`.

        Raises: GatewayError STORAGE_QUOTA_EXHAUSTED, BODY_TIMEOUT.
        """
        await self._take(self.size_bytes - self._counted_bytes)
        for index, name in enumerate(self._parts):
            self._parts[index] = self._name(index, stored_until)
            try:
                await self.objects.move(name, self._parts[index])
            except ObjectNotFoundError:
                raise GatewayError(ErrorCode.BODY_TIMEOUT, "The upload took hours.") from None
        if self._part:
            await self._store_part(stored_until)

    async def discard(self) -> None:
        """Deletes what is stored. What that does not reach is reaped when it expires."""
        self._part = bytearray()
        with suppress(GatewayError):
            await self.objects.delete(self._left)
            if self._counted_bytes:
                await self.quota.give_back(self.tenant, self._counted_bytes, self.unfinished_s)

    def keep(self) -> None:
        """Makes `discard` do nothing."""
        self._left.clear()
        self._counted_bytes = 0

    async def _take(self, size_bytes: int) -> None:
        self.unfinished_s = await self.quota.take(self.tenant, size_bytes, _UNFINISHED_S, self.unfinished_s)
        self._counted_bytes += size_bytes

    async def _store_part(self, expires_s: int) -> None:
        index = len(self._parts)
        self._parts.append(self._name(index, expires_s))
        await self.objects.put(self._parts[index], self._part, _CONTENT_TYPE)
        self.memory.note(-len(self._part))
        self._part = bytearray()

    def _name(self, index: int, expires_s: int) -> str:
        """Returns the name of a part, which `discard` deletes."""
        name = part_name(self.tenant, self.id, expires_s, index)
        self._left.append(name)
        return name
