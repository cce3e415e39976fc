"""What load is asked for, what came of it, and the process that makes it."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Requests to one program: `concurrency` at once, each followed by the next; with a `rate`, so many a second."""

    port: int
    path: str
    body: str = ""
    headers: Mapping[str, str] = {}
    method: str = "POST"
    concurrency: int = 1
    rate: float | None = None
    seconds: float
    """No request begins later."""
    count: int | None = None
    """No more requests than these."""
    in_time_s: float = 5.5
    """`Outcome.in_time` counts what was served within this."""
    keys: Sequence[str] = ()
    """Of the requests in turn, in the place of the one in `headers`."""
    patience_s: float = 30.0
    """For which the last answers are waited for."""
    pause_s: float = 0.0
    """Between an answer and the next request on its connection."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Latencies are of what was served."""

    served: int
    failed: dict[str, int]
    """By HTTP status; "broken" for connections that were closed, "unanswered" for what was left at the end."""
    seconds: float
    """From the first request to the last answer."""
    in_time: int
    body_bytes: int
    """Of the last answer."""
    p50_s: float
    p99_s: float
    max_s: float

    @property
    def sent(self) -> int:
        return self.served + sum(self.failed.values())


class Traffic(AbstractContextManager["Traffic"]):
    """Load under way, in a process of its own; ended with the block."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "bench.load", msgspec.json.encode(plan).decode()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own program

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def stop(self) -> Outcome:
        """What came of it until now."""
        self._process.terminate()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Waits for the end."""
        told, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError("the load failed")
        return msgspec.json.decode(told, type=Outcome)


def send(plan: Plan) -> Outcome:
    """All of it. Raises: RuntimeError when nothing was served."""
    with Traffic(plan) as traffic:
        outcome = traffic.outcome()
    if not outcome.served:
        raise RuntimeError(f"nothing was served: {outcome.failed}")
    return outcome
