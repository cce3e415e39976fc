"""Reads log output in the process of the test."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.observability.logging import LogFormat, LogLevel, configure_logging
from tests.support.harness import wait_until


@dataclass(frozen=True)
class Log:
    """Standard error, as `imagegate serve` writes it."""

    stream: io.StringIO

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def request(self, request_id: str) -> dict[str, Any]:
        """Returns the log line of a request, which is written after its response."""
        wait_until(lambda: bool(self._of(request_id)), "the line of the request is written")
        (line,) = self._of(request_id)
        return line

    def _of(self, request_id: str) -> list[dict[str, Any]]:
        written = self.text[: self.text.rfind("\n") + 1]
        lines: list[dict[str, Any]] = [json.loads(line) for line in written.splitlines()]
        return [line for line in lines if line["event"] == "request" and line["request_id"] == request_id]


@contextmanager
def logging_aside(log_format: LogFormat = "json", level: LogLevel = "debug") -> Iterator[Log]:
    root = logging.getLogger()
    before, level_before = root.handlers[:], root.level
    root.handlers.clear()  # `configure` would close them
    try:
        with redirect_stderr(io.StringIO()) as stream:
            configure_logging(log_format, level)
        yield Log(stream)
    finally:
        root.handlers[:] = before
        root.setLevel(level_before)
        structlog.reset_defaults()
