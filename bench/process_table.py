"""Starts, measures and ends processes. Linux: measurements are read from /proc."""

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_READY_S: Final = 30.0
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def allow_files() -> None:
    """Raises the limit of open files: every process started here needs thousands of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program with its standard error in `log`, and ends it with SIGKILL."""
    with log.open("ab") as written:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=written)  # noqa: S603 - ours
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises: RuntimeError if the program exits, or does not listen within half a minute."""
    deadline_s = time.monotonic() + _READY_S
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{process.args!r} does not serve:\n{log.read_text()[-2000:]}")
        time.sleep(0.002)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_s(pid: int) -> float:
    """Returns the CPU seconds used by a process and its children, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = [child for lists in Path(f"/proc/{pid}/task").glob("*/children") for child in lists.read_text().split()]
    return sum(map(int, fields[11:15])) / _TICKS_A_SECOND + sum(cpu_s(int(child)) for child in children)


def memory_bytes(pid: int) -> int:
    """Returns the current resident memory."""
    return _status_bytes(pid, "VmRSS")


def peak_memory_bytes(pid: int) -> int:
    """Returns the peak of resident memory since `reset_peak`."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    with suppress(PermissionError):  # a gateway's, without root: its peak is then since its start
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
