"""Where a process keeps its numbers: in memory, or in two files of a directory that all of one gateway share.

A number's name is the text of its series, written once; a number is a double in a map of the file, so counting costs no
call to the system. What a dead process counted stays: whoever comes next takes its files over and counts on.
A file is locked for as long as its owner lives, so the kernel says who does.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.metrics.directory import lock

_ROOM: Final = 2**17
"""Numbers of one process, 1 MiB: ten times what 1,000 tenants come to. Reserved at once, so that no later moment can
find the disk full, which kills whoever writes to a map."""
_NOWHERE: Final = 32
"""The last ones belong to no series: for what comes when the room is full; as many as the largest series has."""
_NAMES: Final = ".names"
_NUMBERS: Final = ".numbers"


class Book:
    """The numbers of one process, in memory. Used by one thread."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        self.names: list[str] = []
        self.numbers = memoryview(memory or mmap.mmap(-1, _ROOM * 8)).cast("d")

    def place(self, names: Sequence[str]) -> int | None:
        """Room for series that stand one after the other; where the first one's number is. None where it is full."""
        first = len(self.names)
        if first + len(names) > _ROOM - _NOWHERE:
            return None
        self.names.extend(names)
        return first

    @property
    def nowhere(self) -> int:
        """Where numbers may be written that nobody reads."""
        return _ROOM - _NOWHERE


class SharedBook(Book):
    """The numbers of one process of several, in a directory of theirs."""

    def __init__(self, directory: Path, is_live: Callable[[str], bool]) -> None:
        """Take over what a dead process left, or begin. Numbers of which the living only tell, `is_live`, are 0 again.

        Raises: OSError.
        """
        self._lock = _take(directory)
        super().__init__(_map(self._lock.path.with_suffix(_NUMBERS)))
        self.names = self._lock.names()
        self._places = {name: index for index, name in enumerate(self.names)}
        for name, index in self._places.items():
            if is_live(name):
                self.numbers[index] = 0.0

    def place(self, names: Sequence[str]) -> int | None:
        known = self._places.get(names[0])
        if known is not None and self.names[known : known + len(names)] == list(names):
            return known
        first = super().place(names)
        if first is None:
            return None
        with suppress(OSError):
            if self._lock.write(names):
                return first
        del self.names[first:]
        return None


class _Lock:
    """The file of names, which nobody else has as long as this process lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def names(self) -> list[str]:
        """Those that are there; half a one, of a process that was killed, is cut off."""
        written = self.path.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        os.ftruncate(self._descriptor, len(whole))
        return whole.decode().splitlines()

    def write(self, names: Sequence[str]) -> bool:
        """All or nothing; whether it was all. Raises: OSError."""
        size, text = os.fstat(self._descriptor).st_size, "".join(f"{name}\n" for name in names).encode()
        written = 0
        try:
            written = os.write(self._descriptor, text)
        finally:
            if written != len(text):
                os.ftruncate(self._descriptor, size)
        return written == len(text)


def _take(directory: Path) -> _Lock:
    """The first file that no living process has, and that nobody looks at in this moment."""
    number = 0
    while True:
        path = directory / f"{number}{_NAMES}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if lock(descriptor, fcntl.LOCK_EX):
            return _Lock(path, descriptor)
        os.close(descriptor)
        number += 1


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, bytes(_ROOM * 8 - size), size)
        return mmap.mmap(descriptor, _ROOM * 8)
    finally:
        os.close(descriptor)


class OwnPage:
    """A book in memory, as it is read again and again."""

    is_alive: Final = True

    def __init__(self, book: Book) -> None:
        self._book = book
        self._read = 0

    def new_names(self) -> list[str]:
        found = self._book.names[self._read :]
        self._read += len(found)
        return found

    def first(self, count: int) -> Sequence[float]:
        return self._book.numbers[:count].tolist()


class SharedPage:
    """Likewise the book of any process, living or dead."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError, ValueError where its owner has not got so far."""
        self._path = path
        self._read_bytes = 0
        with path.with_suffix(_NUMBERS).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), _ROOM * 8, prot=mmap.PROT_READ)
        self._numbers = memoryview(mapped).cast("d")
        self.is_alive = True

    def new_names(self) -> list[str]:
        """Those that were written since; looks at the same time whether the owner lives."""
        with self._path.open("rb") as file:
            self.is_alive = not lock(file.fileno(), fcntl.LOCK_SH)
            file.seek(self._read_bytes)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return whole.decode().splitlines()

    def first(self, count: int) -> Sequence[float]:
        return self._numbers[:count].tolist()


def find_pages(directory: Path, known: dict[Path, SharedPage]) -> None:
    """Add those that are new to `known`. One whose numbers are not there yet is found the next time."""
    for path in sorted(directory.glob(f"*{_NAMES}")):
        if path not in known:
            with suppress(OSError, ValueError):
                known[path] = SharedPage(path)
