"""Files of tenants: records in Redis, and content in the storage, or rendered while it is read."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, cast

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount
from gateway.jobs.file_records import ContentDeleter, ContentRenderer, FileRecord, decode, decode_all, parts_of
from gateway.jobs.uploads import PART_BYTES, Upload
from gateway.metering.reservations import redis_keys
from gateway.redis import Client, Value, execute, load_script
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage, StoredObject, UnsatisfiableRangeError
from gateway.storage.quota import HOUR_S, STORED, StorageQuota

_RECORDS: Final = ("files", "file_expiries", "file_keys")
"""Redis keys of a tenant, see lua/add_file.lua."""
_ID: Final = re.compile(r"file-[0-9a-f]{32}", re.ASCII)
_LISTED_BYTES: Final = 4096
"""Memory of one record and its copies while a list is rendered. A file name has at most 255 characters."""
_POSITION_S: Final = 3600
"""Retention of a deleted file's position, because clients delete files while they page through them."""


class Files:
    """The files of all tenants. Each call raises GatewayError REDIS_UNAVAILABLE."""

    def __init__(
        self,
        redis: Client,
        objects: ObjectStorage,
        quota: StorageQuota,
        max_files: int,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """A tenant with `max_files` files may upload no more. `new_id` returns 32 random hexadecimal digits."""
        self.objects = objects
        """Where contents, and what is rendered, are stored."""
        self._quota = quota
        self.renderers: dict[str, ContentRenderer] = {}
        """By kind."""
        self.deleters: dict[str, ContentDeleter] = {}
        """By kind. Without one, the objects of a record are its content."""
        self._redis = redis
        self._max_files = max_files
        self._clock = clock
        self._new_id = new_id
        self._add_file = load_script(redis, "jobs/add_file", STORED)
        self._remove_file = load_script(redis, "jobs/remove_file", STORED)

    def begin_upload(self, tenant: str, memory: ByteAccount, *, is_hashed: bool = False) -> Upload:
        return Upload(
            self.objects, self._quota, tenant, self._new_id(), memory, hashlib.sha256() if is_hashed else None
        )

    async def add_upload(
        self, upload: Upload, filename: str, purpose: str, keep_s: int, identity: tuple[str, str] = ("", "")
    ) -> FileRecord:
        """Makes a file of a complete upload, or returns the one that an earlier upload with the same key made.

        `identity`: keyed hashes of the Idempotency-Key, and of what was uploaded with it.
        Raises: GatewayError REQUEST_EXCEEDS_LIMIT, IDEMPOTENCY_KEY_REUSED, and those of `Upload.finish`; discard the
        upload then.
        """
        now_s = self._clock()
        stored_until = -(-(int(now_s) + keep_s) // HOUR_S) * HOUR_S
        await upload.finish(stored_until)
        key, fingerprint = identity
        record = FileRecord(
            id=upload.file_id,
            tenant=upload.tenant,
            bytes=upload.size_bytes,
            created_ms=round(now_s * 1000),
            expires_at=int(now_s) + keep_s,
            filename=filename,
            purpose=purpose,
            stored_until=stored_until,
            key=key,
        )
        try:
            added = await self._add(record, self._max_files, fingerprint, upload.unfinished_s)
        except GatewayError as error:
            if error.error_code is ErrorCode.REDIS_UNAVAILABLE:
                upload.keep()  # the record may have been added
            raise
        if added.id != record.id:
            await upload.discard()
        return added

    async def check_room(self, tenant: str) -> None:
        """Raises: GatewayError REQUEST_EXCEEDS_LIMIT if a tenant has `max_files` files. Redis: one round trip."""
        [name] = redis_keys(self._redis.prefix, tenant, "file_expiries")
        count = await execute(self._redis, self._redis.zcount(name, f"({int(self._clock())}", "+inf"), int)
        if count >= self._max_files:
            raise _too_many(self._max_files)

    async def add_rendered(
        self,
        file_id: str,
        tenant: str,
        filename: str,
        purpose: str,
        size_bytes: int,
        expires_at: int,
        source: str,
        objects: Sequence[str] = (),
    ) -> FileRecord:
        """Makes a file whose content is rendered by `renderers[source.partition(":")[0]]`. Idempotent by its ID.

        It is made however many files the tenant has: see `check_room`.
        """
        record = FileRecord(
            id=file_id,
            tenant=tenant,
            bytes=size_bytes,
            created_ms=round(self._clock() * 1000),
            expires_at=expires_at,
            filename=filename,
            purpose=purpose,
            source=source,
            objects=tuple(objects),
        )
        return await self._add(record)

    async def get(self, tenant: str, file_id: str, param: str = "id") -> FileRecord:
        """Returns a file. Raises: GatewayError NOT_FOUND, also for another tenant's; `param` named the file."""
        if not _ID.fullmatch(file_id):
            raise no_file(file_id, param)
        [name] = redis_keys(self._redis.prefix, tenant, "files")
        text = await execute(self._redis, self._redis.hget(name, file_id), object)
        record = decode(text) if text else None
        if record is None or record.expires_at <= self._clock():
            raise no_file(file_id, param)
        return record

    async def list_page(
        self,
        tenant: str,
        *,
        purpose: str | None,
        limit: int,
        after: str | None,
        is_ascending: bool,
        take: Callable[[int], None],
    ) -> tuple[Sequence[FileRecord], bool]:
        """Returns the next files by their time of creation, and whether more follow.

        `take` counts the bytes that this needs before they are received.
        Raises: GatewayError NOT_FOUND for an unknown `after`, and those of `take`.
        Redis: two round trips or three; it reads all records.
        """
        [name] = redis_keys(self._redis.prefix, tenant, "files")
        take(_LISTED_BYTES * await execute(self._redis, self._redis.hlen(name), int))
        texts = await execute(self._redis, self._redis.hgetall(name), dict[str, str])
        now_s, records = self._clock(), await asyncio.to_thread(decode_all, texts)
        found = [
            record for record in records.values() if record.expires_at > now_s and purpose in {None, record.purpose}
        ]
        if after is not None:
            start = records[after].position if after in records else await self._position(tenant, after)
            found = [record for record in found if (record.position > start) == is_ascending and record.id != after]
        found.sort(key=lambda record: record.position, reverse=not is_ascending)
        return found[:limit], len(found) > limit

    async def delete(self, record: FileRecord) -> None:
        """Deletes a file with its content. Raises: GatewayError STORAGE_UNAVAILABLE, and the file remains."""
        deleter = self.deleters.get(record.source.partition(":")[0])
        if deleter:
            await deleter.add(record)
        else:
            await self.objects.delete(parts_of(record))
        names = (*_RECORDS, f"deleted_file:{record.id}", "stored")
        keys = redis_keys(self._redis.prefix, record.tenant, *names)
        counted = (record.stored_until // HOUR_S, record.bytes if record.stored_until else 0)
        is_removed = await self._remove_file(keys, [record.id, record.created_ms, _POSITION_S, *counted])
        if is_removed and deleter:
            await deleter.begin(record)

    async def forget(self, tenant: str) -> None:
        """Removes all records of a tenant. The reaper deletes what is stored."""
        await execute(self._redis, self._redis.delete(*redis_keys(self._redis.prefix, tenant, *_RECORDS)), int)

    async def open(self, record: FileRecord, start: int = 0, end: int | None = None) -> StoredObject:
        """Opens a content, or its bytes from `start` up to `end` (exclusive); a negative `start` reads the last ones.

        Raises: UnsatisfiableRangeError; GatewayError NOT_FOUND, STORAGE_UNAVAILABLE; the latter also while it is read.
        """
        size = record.bytes
        start, end = max(size + start, 0) if start < 0 else start, size if end is None else min(end, size)
        if start >= end and size + start:
            raise UnsatisfiableRangeError(size)
        if record.source:
            chunks = self.renderers[record.source.partition(":")[0]](record, start, end)
        else:
            chunks = self._read(record, start, end)
        first = await anext(chunks, None)  # so that a failure precedes the response

        async def read_on() -> AsyncIterator[bytes]:
            if first is not None:
                yield first
            async for chunk in chunks:
                yield chunk

        return StoredObject(size, record.etag, start, end, read_on())

    async def _read(self, record: FileRecord, start: int, end: int) -> AsyncIterator[bytes]:
        names = parts_of(record)
        for index in range(start // PART_BYTES, -(-end // PART_BYTES)):
            offset = index * PART_BYTES
            try:
                part = await self.objects.get(names[index], max(start - offset, 0), min(end - offset, PART_BYTES))
            except ObjectNotFoundError:
                raise no_file(record.id) from None
            async for chunk in part:
                yield chunk

    async def _add(
        self, record: FileRecord, max_files: int = 2**53, fingerprint: str = "", unfinished_s: int = 0
    ) -> FileRecord:
        keys = redis_keys(self._redis.prefix, record.tenant, *_RECORDS, "stored")
        text, hours = msgspec.json.encode(record), (unfinished_s // HOUR_S, record.stored_until // HOUR_S)
        args: list[Value] = [record.id, text, record.expires_at, max_files, record.key, fingerprint]
        reply = await self._add_file(keys, [*args, record.bytes if unfinished_s else 0, *hours])
        state, *known = cast("list[str]", reply)
        if state == "reused":
            raise GatewayError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
        if state == "full":
            raise _too_many(max_files)
        return decode(known[0]) if known else record

    async def _position(self, tenant: str, file_id: str) -> tuple[int, str]:
        """Returns the position of a file that was deleted lately. Raises: GatewayError NOT_FOUND."""
        if not _ID.fullmatch(file_id):
            raise no_file(file_id, param="after")
        [name] = redis_keys(self._redis.prefix, tenant, f"deleted_file:{file_id}")
        created_ms = await execute(self._redis, self._redis.get(name), object)
        if created_ms is None:
            raise no_file(file_id, param="after")
        return int(str(created_ms)), file_id


def no_file(file_id: str, param: str = "id") -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, f"No such File object: {file_id[:64]}", param=param)


def _too_many(max_files: int) -> GatewayError:
    text = f"The tenant has {max_files} files, which is the limit. Delete files that are no longer needed."
    return GatewayError(ErrorCode.REQUEST_EXCEEDS_LIMIT, text)
