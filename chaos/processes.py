"""Starts and inspects processes. Linux: memory is read from /proc."""

import asyncio
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_READY_S: Final = 90.0
"""Generous, because the load may occupy a slow machine completely."""


def start(
    command: Sequence[str], log: Path, environ: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program whose output goes to `log`, in `folder` if given. The caller ends it."""
    with log.open("ab") as written:
        return subprocess.Popen(  # noqa: S603 - our own
            command, env=dict(environ), stdout=written, stderr=written, cwd=folder
        )


async def wait_for_line(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """Returns the pattern's group in the log. Raises: RuntimeError if the program exits or times out."""
    deadline_s = time.monotonic() + _READY_S
    while True:
        if found := re.search(pattern, read_log(log)):
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{process.args!r} does not start:\n{read_log(log)[-2000:]}")
        await asyncio.sleep(0.02)


async def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Returns its exit code; None if it has not exited by then."""
    deadline_s = time.monotonic() + seconds
    while (code := process.poll()) is None and time.monotonic() < deadline_s:  # noqa: ASYNC110 - it knows no event
        await asyncio.sleep(0.05)
    return code


def read_log(path: Path) -> str:
    """Reads a log as far as it is written."""
    return path.read_text(errors="replace")


def children(pid: int) -> list[int]:
    """Returns child processes, without multiprocessing's resource tracker; none for an exited process."""
    found = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if "resource_tracker" not in _command_line(child)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def memory_bytes(pid: int) -> int:
    """Returns resident bytes; 0 for an exited process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0) * 1024
