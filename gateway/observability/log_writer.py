"""Writes log lines so that a reader which stalls stops no request: a full pipe would block the event loop."""

import atexit
import os
import select
import threading
import time
from collections import deque
from typing import Final, TextIO

_QUEUED_MAX: Final = 4096
"""Lines that wait for the reader; a line has at most some kilobytes."""
_CLOSE_S: Final = 1.0
"""How long the end of the process waits for the reader."""
_POLL_S: Final = 0.01


class LogWriter:
    """A text file for whole lines. It writes at once if the file takes them, else in a thread of its own.

    What does not fit into its queue is dropped and counted, and so is what the file refuses.
    """

    def __init__(self, file: TextIO) -> None:
        self._fd = file.fileno()
        self._ready = select.poll()
        self._ready.register(self._fd, select.POLLOUT)
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        """The first line is the one that the thread writes; without lines there is no thread."""
        self.dropped = 0
        atexit.register(self.close)

    def write(self, text: str) -> int:
        line = text.encode(errors="backslashreplace")
        with self._lock:
            if not self._waiting and len(line) <= select.PIPE_BUF and self._ready.poll(0):
                self._write(line)
            elif len(self._waiting) >= _QUEUED_MAX:
                self.dropped += 1
            else:
                self._waiting.append(line)
                if len(self._waiting) == 1:
                    threading.Thread(target=self._write_waiting, name="log", daemon=True).start()
        return len(text)

    def flush(self) -> None:
        """Does nothing: no line stays in a buffer."""

    def close(self) -> None:
        """Waits a moment until all lines are written."""
        ends_s = time.monotonic() + _CLOSE_S
        while self._waiting and time.monotonic() < ends_s:
            time.sleep(_POLL_S)

    def _write_waiting(self) -> None:
        while True:
            self._write(self._waiting[0])
            with self._lock:
                self._waiting.popleft()
                if not self._waiting:
                    return

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:  # the reader has closed it, or the disk is full
            self.dropped += 1
