"""A wall clock that can be stepped, for a server under libfaketime."""

from pathlib import Path
from typing import Final

_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


class SteppedClock:
    """Wall clock of a process: real time plus an offset. The monotonic clock is unchanged."""

    def __init__(self, folder: Path) -> None:
        self._library = _find_library()
        self._file = folder / "clock-offset"
        self.step(0)

    @property
    def is_available(self) -> bool:
        """Returns True if libfaketime is installed."""
        return self._library is not None

    @property
    def environ(self) -> dict[str, str]:
        """Returns the environment for a process with this clock; empty without libfaketime."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, offset_s: int) -> None:
        """Sets the offset from real time, effective when the process next reads its clock."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)


def _find_library() -> Path | None:
    patterns = ("faketime/libfaketimeMT.so.1", "*/faketime/libfaketimeMT.so.1")
    found = (path for folder in _FOLDERS for pattern in patterns for path in sorted(Path(folder).glob(pattern)))
    return next(found, None)
