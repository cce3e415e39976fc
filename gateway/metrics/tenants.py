"""Which tenants have series of their own."""

import os
from pathlib import Path
from typing import Final

OTHER: Final = "_other"
"""No tenant can be called so."""


class Tenants:
    """The first `most` that were seen, also over several processes: these agree by the order in a file of theirs."""

    def __init__(self, most: int, file: Path | None = None) -> None:
        self._most = most
        self._file = file
        self._own: set[str] = set()

    def label(self, name: str) -> str:
        """The value of the label: the name, or `_other`. Reads and writes the file when it sees a tenant first."""
        if not name or name in self._own:
            return name
        if len(self._own) < self._most:
            self._enter(name)
        return name if name in self._own else OTHER

    def _enter(self, name: str) -> None:
        if self._file is None:
            self._own.add(name)
            return
        self._read(self._file)
        if name not in self._own and len(self._own) < self._most:
            _append(self._file, name)
            self._read(self._file)

    def _read(self, file: Path) -> None:
        """Two that come at once both write; whose line is above decides."""
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        self._own = set(list(dict.fromkeys(lines))[: self._most])


def _append(file: Path, name: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{name}\n".encode())
    finally:
        os.close(descriptor)
