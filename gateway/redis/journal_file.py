"""One journal file: checksummed records, locked by the process that owns it.

When a process dies, the lock is freed and any other process of the machine may adopt the file.
"""

import errno
import os
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from gateway.observability.multiprocess import try_lock

_SUFFIX: Final = ".journal"
_DONE: Final = "done"
_CHECKSUM_BYTES: Final = 8


class Entry(msgspec.Struct, frozen=True):
    """One operation that Redis did not confirm."""

    kind: str
    id: str
    body: msgspec.Raw = msgspec.Raw(b"null")
    """What its kind needs for a replay, as JSON."""

    @property
    def key(self) -> str:
        return f"{self.kind} {self.id}"

    def line(self) -> bytes:
        text = msgspec.json.encode(self)
        return b"%08x %b\n" % (zlib.crc32(text), text)

    def done_line(self) -> bytes:
        """Returns the record that marks the entry as confirmed."""
        return Entry(_DONE, self.key).line()


class JournalFile:
    """An open and locked file. Not thread-safe."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @classmethod
    def create(cls, directory: Path, redis_id: str) -> Self:
        """Creates a file. It is locked before it gets a name that other processes match. Raises: OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = directory / f"{redis_id}.{uuid.uuid4().hex}.new"
        descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            try_lock(descriptor)
            path = made.rename(made.with_suffix(_SUFFIX))
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)  # makes the new name durable
            finally:
                os.close(folder)
        except OSError:
            os.close(descriptor)
            made.unlink(missing_ok=True)
            raise
        return cls(path, descriptor)

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Opens the file of a dead process; None if the process is alive. Raises: OSError."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # another process adopted it first
            return None
        is_ours = os.fstat(descriptor).st_uid == os.geteuid()
        if is_ours and try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            return cls(path, descriptor)
        os.close(descriptor)
        if not is_ours:
            raise PermissionError(errno.EPERM, "it belongs to another user")
        return None

    def read(self) -> tuple[dict[str, Entry], int]:
        """Returns the unconfirmed entries by key, and the number of damaged lines. Raises: OSError."""
        found: dict[str, Entry] = {}
        damaged = 0
        for line in os.pread(self._descriptor, self._size, 0).split(b"\n"):
            entry = _read_line(line)
            if entry is None:
                damaged += bool(line)
            elif entry.kind == _DONE:
                found.pop(entry.id, None)
            else:
                found[entry.key] = entry
        return found, damaged

    def write(self, lines: bytes) -> None:
        """Appends whole lines and syncs. A failed write leaves no partial line. Raises: OSError."""
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(lines)

    def clear(self) -> None:
        """Raises: OSError."""
        os.ftruncate(self._descriptor, 0)
        self._size = 0

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)


def files_of(directory: Path, redis_id: str = "*") -> list[Path]:
    """Returns the files of one Redis, or of all; empty if the directory does not exist."""
    return sorted(directory.glob(f"{redis_id}.*{_SUFFIX}"))


def _read_line(line: bytes) -> Entry | None:
    """Returns None for a truncated or changed line."""
    checksum, text = line[:_CHECKSUM_BYTES], line[_CHECKSUM_BYTES + 1 :]
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        return msgspec.json.decode(text, type=Entry)
    except msgspec.MsgspecError:
        return None
