"""A load plan, its outcome, and the process that runs it."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import msgspec

SERIAL: Final = "{serial}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Requests to one program at a fixed `concurrency`, or at a `rate` per second."""

    port: int
    path: str
    body: str = ""
    headers: Mapping[str, str] = {}
    """`SERIAL` in them stands for a number that no other request of the plan has."""
    method: str = "POST"
    concurrency: int = 1
    rate: float | None = None
    seconds: float
    """No request starts later."""
    count: int | None = None
    """Maximum number of requests."""
    in_time_s: float = 5.5
    """`Outcome.in_time` counts requests served within this."""
    keys: Sequence[str] = ()
    """API keys used in turn, in place of the one in `headers`."""
    patience_s: float = 30.0
    """Maximum wait for the last responses."""
    pause_s: float = 0.0
    """Between a response and the next request on its connection."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. Latencies are of served requests."""

    served: int
    failed: dict[str, int]
    """By HTTP status; "broken" for closed connections, "unanswered" for requests in flight at the end."""
    seconds: float
    """From the first request to the last response."""
    in_time: int
    body_bytes: int
    """Of the last response."""
    p50_s: float
    p99_s: float
    max_s: float

    @property
    def sent(self) -> int:
        return self.served + sum(self.failed.values())


class Traffic(AbstractContextManager["Traffic"]):
    """Load in a separate process; the block's end stops it."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "bench.load", msgspec.json.encode(plan).decode()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own program

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def stop(self) -> Outcome:
        """Stops the load and returns the outcome so far."""
        self._process.terminate()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Waits for the end."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError("the load failed")
        return msgspec.json.decode(output, type=Outcome)


def send(plan: Plan) -> Outcome:
    """Runs a whole plan. Raises: RuntimeError if nothing was served."""
    with Traffic(plan) as traffic:
        outcome = traffic.outcome()
    if not outcome.served:
        raise RuntimeError(f"nothing was served: {outcome.failed}")
    return outcome
