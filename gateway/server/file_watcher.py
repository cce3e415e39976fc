"""Detects file changes by polling."""

from pathlib import Path
from typing import Final

_STABLE_POLLS: Final = 2
"""A changed file is reported after this many identical polls, so that a half-written file is not read."""


class FileWatcher:
    """Detects that a file was replaced or has other content, also behind symbolic links."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read = self._seen = _stamp(path)
        self._stable_polls = 0

    def has_changed(self) -> bool:
        """Polls. True if the file differs from what was last read and is no longer being written."""
        stamp = _stamp(self._path)
        self._stable_polls = self._stable_polls + 1 if stamp == self._seen else 0
        self._seen = stamp
        return stamp != self._read and self._stable_polls >= _STABLE_POLLS

    def mark_read(self) -> None:
        """Marks the present content as read. Call it before reading the file."""
        self._read = _stamp(self._path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Modification time, size and inode; None if there is no file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
