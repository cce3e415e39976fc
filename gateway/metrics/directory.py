"""Where the processes of one gateway keep their numbers."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made in it is private
_PREFIX: Final = "imagegate-metrics-"
_OWNER: Final = "owner"


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A private directory for the books of one gateway's processes, gone at the end; in memory where there is such."""
    parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_forgotten(left)
    with TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as name, _owning(Path(name)):
        yield Path(name)


@contextmanager
def _owning(directory: Path) -> Iterator[None]:
    """There is never an owner's file that is not locked while the owner lives."""
    made = directory / f"{_OWNER}.new"
    with made.open("wb") as file:
        lock(file.fileno(), fcntl.LOCK_EX)
        made.rename(directory / _OWNER)
        yield


def _remove_forgotten(directory: Path) -> None:
    """What a gateway left that was killed, as soon as its last process is gone. Raises: OSError."""
    if directory.lstat().st_uid != os.getuid() or not (directory / _OWNER).exists():
        return
    for path in directory.iterdir():
        with path.open("rb") as file:
            if not lock(file.fileno(), fcntl.LOCK_SH):
                return
    shutil.rmtree(directory, ignore_errors=True)


def lock(descriptor: int, how: int) -> bool:
    """Take a lock, fcntl.LOCK_EX or LOCK_SH, until the descriptor is closed. Returns: whether nobody else has it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
