"""Ends processes together. The kernel enforces it, after SIGKILL too.

Also a program: the keeper, which stops a server that has no users left. It imports only the standard library.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_UMASK: Final = 0o077
"""File mode mask of the server: its files hold tenant data, and backups copy modes."""
_STOP_TIMEOUT_S: Final = 5.0
"""Time for a server to save its data and exit before it is killed."""


def end_with_parent(how: signal.Signals, parent: int) -> bool:
    """Makes the kernel signal this process when its parent exits. Linux only; elsewhere it does nothing.

    The kernel binds it to the parent's thread that started this process.
    Returns: False if the parent has already exited.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
    return os.getppid() == parent


def start_supervised(users: Path, lock: int, command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a server that stops when no process holds a shared lock on the file `users`.

    Returns: its keeper, which runs as long as the server. Both inherit the file descriptor `lock`.
    """
    return subprocess.Popen(  # noqa: S603 - our own program, our own arguments
        [sys.executable, "-I", "-S", __file__, str(users), str(lock), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        umask=_UMASK,
        start_new_session=True,  # Ctrl-C is for the gateways
    )


def _keep(users: str, lock: str, *command: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)  # a service manager may signal every process of a gateway
    signal.signal(signal.SIGCHLD, _end_with_child)
    server = subprocess.Popen(  # noqa: S603 - the command of `start_supervised`
        command,
        pass_fds=(int(lock),),
        preexec_fn=partial(_end_child_with, os.getpid()),  # noqa: PLW1509 - this program has one thread
    )
    with Path(users).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        server.terminate()
        time.sleep(_STOP_TIMEOUT_S)
        server.kill()
        server.wait()


def _ignore(*_: object) -> None:
    """Ignores a signal. Unlike SIG_IGN, a handler is not inherited by the server."""


def _end_with_child(*_: object) -> None:
    if os.waitpid(-1, os.WNOHANG)[0]:  # exited, not merely stopped
        os._exit(0)


def _end_child_with(keeper: int) -> None:
    if not end_with_parent(signal.SIGTERM, keeper):
        os._exit(1)


if __name__ == "__main__":
    _keep(*sys.argv[1:])
