"""Notices that files change."""

from pathlib import Path
from typing import Final

_QUIET_LOOKS: Final = 2
"""Whoever writes the file may not be done: it is read when it has been the same for so many looks."""


class Watch:
    """Notices that a file is another one or has other content, also behind symbolic links."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read = self._seen = _stamp(path)
        self._quiet_looks = 0

    def has_changed(self) -> bool:
        """Whether it differs from what was read last, and is no longer being written."""
        stamp = _stamp(self._path)
        self._quiet_looks = self._quiet_looks + 1 if stamp == self._seen else 0
        self._seen = stamp
        return stamp != self._read and self._quiet_looks >= _QUIET_LOOKS

    def note(self) -> None:
        """It is about to be read."""
        self._read = _stamp(self._path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What differs when a file does; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
