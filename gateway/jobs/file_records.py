"""The record of a file, and what renders or deletes the content of one that is not stored as it is."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from gateway.jobs.uploads import PART_BYTES, part_name


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file. It never changes."""

    id: str
    """`file-` and 32 hexadecimal digits."""
    tenant: str
    bytes: int
    created_ms: int
    """Unix milliseconds."""
    expires_at: int
    """Unix seconds."""
    filename: str
    purpose: str
    stored_until: int = 0
    """The time in the names of its parts, Unix seconds."""
    source: str = ""
    """If the content is rendered: the kind of its renderer, a colon, and what that needs."""
    objects: tuple[str, ...] = ()
    """What it is rendered from, and is deleted with it."""
    key: str = ""
    """Keyed hash of the Idempotency-Key of the upload."""

    @property
    def created_at(self) -> int:
        """Unix seconds."""
        return self.created_ms // 1000

    @property
    def etag(self) -> str:
        """A strong entity tag: the content of an ID never changes."""
        return f'"{self.id}"'

    @property
    def position(self) -> tuple[int, str]:
        """Where it stands in a list."""
        return self.created_ms, self.id


class ContentRenderer(Protocol):
    """Renders the content of a file while it is read."""

    def __call__(self, record: FileRecord, start: int, end: int, /) -> AsyncIterator[bytes]:
        """Yields exactly the bytes from `start` to before `end` of `record.bytes`, the same ones at each call.

        Raises: GatewayError STORAGE_UNAVAILABLE, REDIS_UNAVAILABLE, at the first chunk if possible.
        """


class ContentDeleter(Protocol):
    """Deletes the content of a rendered file, with what else was stored for it."""

    async def add(self, record: FileRecord, /) -> None:
        """Remembers what is to be deleted. Raises: GatewayError REDIS_UNAVAILABLE."""

    async def begin(self, record: FileRecord, /) -> None:
        """Begins after the file's record is removed. Never raises: what is left is deleted later."""


def decode(text: object) -> FileRecord:
    return msgspec.json.decode(str(text), type=FileRecord)


def decode_all(texts: Mapping[str, str]) -> Mapping[str, FileRecord]:
    return {file_id: decode(text) for file_id, text in texts.items()}


def parts_of(record: FileRecord) -> Sequence[str]:
    """Returns the names of the objects that make up a content, or that it is rendered from."""
    if record.source:
        return record.objects
    file_id, count = record.id.removeprefix("file-"), -(-record.bytes // PART_BYTES)
    return [part_name(record.tenant, file_id, record.stored_until, index) for index in range(count)]
