"""A child process that converts images, as its gateway sees it; image_codec.py is its program."""

import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final

from gateway.domain.images import Format

_TIMEOUT_S: Final = 60.0
"""Deadline of one answer. A conversion has a shorter one, which kills the process."""
_EXIT_TIMEOUT_S: Final = 5.0
_ANSWER_MAX_BYTES: Final = 32
_PASSED_VARIABLES: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""The environment of the program: no secrets, because it reads files that others made."""


class CodecProcess:
    """Converts one image at a time: `open`, `save` or `refuse`, then `reuse`. It starts with its first image."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._result: IO[bytes] | None = None
        self._state = "idle"

    def open(self, encoded: memoryview, form: Format, quality: int, quarter: int | None = None) -> int:
        """Hands an image in base64 to the process, which cuts a quarter out of it if requested. Blocks.

        Returns: its pixels.
        Raises: OSError if it is not an image, or the process does not answer.
        """
        self._state = "busy"
        connection = self._connection or self._start()
        self._result = result = _shared_file()
        with _shared_file() as source:
            source.write(encoded)
            files = [source.fileno(), result.fileno()]
            request = f"{form.value} {quality} {'' if quarter is None else quarter}".encode()
            pixels = self._ask(lambda: socket.send_fds(connection, [request], files))
        self._state = "opened"
        return pixels

    def save(self) -> memoryview:
        """Returns the opened image in its new format, in base64. Blocks. Raises: OSError, as `open`."""
        connection, result = self._connection, self._result
        if not connection or not result:
            raise OSError("no image is open")
        self._state = "busy"
        size = self._ask(lambda: connection.send(b"1"))
        self._state = "idle"
        return memoryview(mmap.mmap(result.fileno(), size, access=mmap.ACCESS_READ))

    def refuse(self) -> None:
        """Drops the opened image."""
        if self._connection:
            with suppress(OSError):
                self._connection.send(b"0")
                self._state = "idle"

    def reuse(self) -> "CodecProcess":
        """Returns this process, ready for another image; if it still has one, it is killed, and a new one returned."""
        if self._result:
            self._result.close()
            self._result = None
        if self._state == "idle":
            return self
        self._state = "killed"
        if self._process:
            self._process.kill()  # the thread that waits for its answer waits for its end
        return CodecProcess()

    def close(self) -> None:
        """Ends an idle process. Blocks."""
        if self._connection:
            self._connection.close()
        if self._process:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_S)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.settimeout(_TIMEOUT_S)
            self._connection = ours
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.generation.image_codec"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ},
            )
        return ours

    def _ask(self, send: Callable[[], object]) -> int:
        """Returns the answer. Raises: OSError."""
        answer = b""
        with suppress(OSError):  # it died
            if self._connection and self._state == "busy":
                send()
                answer = self._connection.recv(_ANSWER_MAX_BYTES)
        if not answer:
            self.close()
            raise OSError("the process that converts images ended")
        if (number := int(answer)) < 0:
            self._state = "idle"
            raise OSError("unreadable image")
        return number


def _shared_file() -> IO[bytes]:
    """Returns a file in memory where the system has them."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("image"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
