"""A wall clock that can be stepped, for a server that is started under libfaketime."""

from pathlib import Path
from typing import Final

_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


class SteppedClock:
    """The wall clock of a process: the real one and an offset. The monotonic clock stays as it is."""

    def __init__(self, folder: Path) -> None:
        self._library = _find_library()
        self._file = folder / "clock-offset"
        self.step(0)

    @property
    def is_available(self) -> bool:
        """If libfaketime is installed."""
        return self._library is not None

    @property
    def environ(self) -> dict[str, str]:
        """The environment for the process whose clock this is; empty without libfaketime."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, offset_s: int) -> None:
        """Sets the offset from the real time. The process sees it with its next look at the clock."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)


def _find_library() -> Path | None:
    patterns = ("faketime/libfaketimeMT.so.1", "*/faketime/libfaketimeMT.so.1")
    found = (path for folder in _FOLDERS for pattern in patterns for path in sorted(Path(folder).glob(pattern)))
    return next(found, None)
