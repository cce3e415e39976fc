"""Objects by name in a directory or a bucket, through obstore (https://developmentseed.org/obstore).

obstore works in threads of its own, so no call blocks the event loop.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from gateway.observability.metrics import Metrics
from gateway.storage.calls import (
    ObjectNotFoundError,
    Operation,
    Source,
    StorageBreaker,
    StorageCalls,
    UnsatisfiableRangeError,
)

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, SignCapableStore
    from obstore.store import ObjectStore

__all__ = ["ObjectInfo", "ObjectNotFoundError", "ObjectStorage", "StoredObject", "UnsatisfiableRangeError"]
STREAM_HELD_BYTES: Final = 24 * 1024 * 1024
"""Memory of an upload from an iterator, whatever its length; its caller counts it."""
PAGE: Final = 1000
"""Objects in one page of a list, and in one request that deletes: the limit of S3."""
_CHUNK_BYTES: Final = 512 * 1024
"""What one read returns at least, except the last."""
_PART_BYTES: Final = 8 * 1024 * 1024
"""Part of an upload, and the largest object that is sent in one request. S3 allows 10,000 parts of 5 MiB or more."""
_PARTS_IN_FLIGHT: Final = STREAM_HELD_BYTES // _PART_BYTES - 1
_RELEASE_S: Final = 0.2
"""obstore holds a buffer for some milliseconds after its call has returned."""
_PAGE_OF_SINGLES: Final = 64
"""Objects that are deleted within one deadline, except in S3, which deletes a page in one request."""
_DELETED_AT_ONCE: Final = 8
"""Concurrent requests for them."""

Content = bytes | bytearray | memoryview | Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its content."""

    name: str
    size_bytes: int
    etag: str
    """A strong entity tag in quotes; empty if the storage has none."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An open object. Iterate over its bytes once, or drop it."""

    size_bytes: int
    """Of the whole object."""
    etag: str
    start: int
    """First byte of the range that is read."""
    end: int
    """Byte behind the last one of the range."""
    _chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields about 512 KiB at a time. Raises: GatewayError STORAGE_UNAVAILABLE, also after some chunks."""
        return self._chunks


@dataclass(frozen=True, slots=True)
class Backend:
    """An obstore store, and how it differs from others."""

    store: "ObjectStore"
    errors: tuple[type[Exception], ...]
    """What its calls raise, besides FileNotFoundError."""
    directory: Path | None = None
    """None for a bucket. A directory keeps no content types."""
    deletes_pages: bool = False
    """True if one request deletes many objects, and absent ones are no error."""


class ObjectStorage:
    """The objects of one gateway. All names are relative to the URL of the storage.

    Every call has a deadline. After a failure, calls raise STORAGE_UNAVAILABLE immediately for some seconds.
    """

    def __init__(self, backend: Backend, calls: StorageCalls, metrics: Metrics) -> None:
        self._store = backend.store
        self._backend = backend
        self._calls = calls
        self._metrics = metrics

    @property
    def breakers(self) -> dict[str, StorageBreaker]:
        return {"read": self._calls.reads, "write": self._calls.writes, "delete": self._calls.deletes}

    async def close(self) -> None:
        """Waits until obstore's threads have let go of what was written. Call last.

        A thread that releases a buffer while the interpreter ends aborts the process.
        """
        await asyncio.sleep(_RELEASE_S)

    async def put(self, name: str, data: Content | AsyncIterator[bytes], content_type: str) -> None:
        """Writes an object whole or not at all. One of the same name is replaced.

        An iterator is sent in parts, and STREAM_HELD_BYTES are held meanwhile; the storage must accept each part within
        the deadline. What the iterator raises is raised here, and nothing is written.
        Raises: GatewayError STORAGE_UNAVAILABLE.
        """
        source = Source()
        async with self._calls.attempt(Operation.PUT, source) as deadline:
            content: Content | AsyncIterator[bytes]
            if isinstance(data, AsyncIterator):
                content, is_multipart = self._paced(data, deadline, source), True
            else:
                source.size_bytes = _size(data)
                content, is_multipart = data, source.size_bytes > _PART_BYTES
            await self._store.put_async(
                name,
                content,
                attributes=None if self._backend.directory else {"Content-Type": content_type},
                use_multipart=is_multipart,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_IN_FLIGHT,
            )
        self._metrics.storage_bytes.labels("written").inc(source.size_bytes)

    async def get(self, name: str, start: int = 0, end: int | None = None) -> StoredObject:
        """Opens an object, or its bytes from `start` up to `end` (exclusive); a negative `start` reads the last ones.

        Raises: ObjectNotFoundError, UnsatisfiableRangeError, GatewayError STORAGE_UNAVAILABLE.
        """
        options: GetOptions = {}
        if start < 0:
            options["range"] = {"suffix": -start}
        elif end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        async with self._calls.attempt(Operation.GET):
            result = await self._open(name, options, start)
        meta, (first, behind) = result.meta, result.range
        chunks = self._slices(name, first, behind) if self._backend.directory else _stream(result)
        return StoredObject(meta["size"], _etag(meta["e_tag"]), first, behind, self._read(chunks))

    async def head(self, name: str) -> ObjectInfo:
        """Describes an object. Raises: ObjectNotFoundError, GatewayError STORAGE_UNAVAILABLE."""
        async with self._calls.attempt(Operation.HEAD):
            meta = await self._store.head_async(name)
        return ObjectInfo(name, meta["size"], _etag(meta["e_tag"]))

    async def move(self, name: str, to: str) -> None:
        """Renames an object. A bucket copies it. Raises: ObjectNotFoundError, GatewayError STORAGE_UNAVAILABLE."""
        async with self._calls.attempt(Operation.MOVE):
            await self._store.rename_async(name, to)

    async def sign(self, name: str, life_s: int) -> str:
        """Returns a URL at which a bucket serves an object to anybody for `life_s`.

        Raises: GatewayError STORAGE_UNAVAILABLE, if the credentials cannot be had.
        """
        from obstore import sign_async  # noqa: PLC0415 - the backend has loaded it

        async with self._calls.attempt(Operation.SIGN):
            return await sign_async(cast("SignCapableStore", self._store), "GET", name, timedelta(seconds=life_s))

    async def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; absent ones are no error. Raises: GatewayError STORAGE_UNAVAILABLE."""
        left, size = [*names], PAGE if self._backend.deletes_pages else _PAGE_OF_SINGLES
        while left:
            page, left = left[:size], left[size:]
            async with self._calls.attempt(Operation.DELETE):
                await self._delete_page(page)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo]:
        """Yields the objects of a folder and of those in it. Raises: GatewayError STORAGE_UNAVAILABLE."""
        pages = self._store.list(prefix, chunk_size=PAGE)
        while True:
            async with self._calls.attempt(Operation.LIST):
                page = await anext(pages, None)
            if page is None:
                return
            for meta in page:
                yield ObjectInfo(meta["path"], meta["size"], _etag(meta["e_tag"]))

    async def list_folders(self, prefix: str) -> Sequence[str]:
        """Returns the names of the folders in a folder, in order. Raises: GatewayError STORAGE_UNAVAILABLE."""
        async with self._calls.attempt(Operation.LIST):
            found = await self._store.list_with_delimiter_async(prefix)
        return sorted(path.strip("/").rpartition("/")[2] for path in found["common_prefixes"])

    async def remove_folder(self, name: str) -> None:
        """Removes what else a folder of a directory holds: empty folders, and files of processes that were killed."""
        if self._backend.directory:
            async with self._calls.attempt(Operation.DELETE):
                await asyncio.to_thread(shutil.rmtree, self._backend.directory / name, ignore_errors=True)

    async def _open(self, name: str, options: "GetOptions", start: int) -> "GetResult":
        try:
            return await self._store.get_async(name, options=options)
        except self._backend.errors as error:  # none of its own for a range behind the end
            if start <= 0 or isinstance(error, FileNotFoundError):
                raise
            size_bytes = (await self._store.head_async(name))["size"]
            if size_bytes > start:
                raise
            raise UnsatisfiableRangeError(size_bytes) from error

    async def _slices(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yields a file in slices. Of a file, obstore's stream reads 8 KiB at a time, and takes ten times the CPU."""
        for first in range(start, end, _CHUNK_BYTES):
            yield bytes(await self._store.get_range_async(name, start=first, end=min(first + _CHUNK_BYTES, end)))

    async def _read(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        read = self._metrics.storage_bytes.labels("read")
        while True:
            try:
                async with asyncio.timeout(self._calls.timeout_s):
                    chunk = await anext(chunks, None)
            except self._calls.errors as error:
                raise self._calls.failure(Operation.GET, error) from error
            if chunk is None:
                return
            read.inc(len(chunk))
            yield chunk

    async def _delete_page(self, names: Sequence[str]) -> None:
        if self._backend.deletes_pages:
            await self._store.delete_async(names)
            return
        slots = asyncio.Semaphore(_DELETED_AT_ONCE)

        async def delete(name: str) -> None:
            async with slots:
                with suppress(FileNotFoundError):
                    await self._store.delete_async(name)

        await asyncio.gather(*map(delete, names))

    async def _paced(
        self, chunks: AsyncIterator[bytes], deadline: asyncio.Timeout, source: Source
    ) -> AsyncGenerator[bytes]:
        """Yields the chunks of a client, whose time is not the storage's."""
        clock = asyncio.get_running_loop().time
        try:
            deadline.reschedule(None)
            async for chunk in chunks:
                source.size_bytes += len(chunk)
                deadline.reschedule(clock() + self._calls.timeout_s)
                yield chunk
                deadline.reschedule(None)
        except Exception as error:
            source.error = error
            raise
        deadline.reschedule(clock() + self._calls.timeout_s)


def _size(data: Content) -> int:
    return len(data) if isinstance(data, bytes | bytearray | memoryview) else sum(map(len, data))


async def _stream(result: "GetResult") -> AsyncGenerator[bytes]:
    async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
        yield bytes(chunk)


def _etag(value: str | None) -> str:
    """Returns a strong entity tag in quotes, which a directory's lacks."""
    tag = (value or "").removeprefix("W/").strip('"')
    return f'"{tag}"' if tag else ""
