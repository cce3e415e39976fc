"""Processes that count in one directory. They import little, as each starts anew."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from prometheus_client import generate_latest

from gateway.observability.metrics import Metrics
from gateway.observability.multiprocess import shared_directory

SPAWN: Final = multiprocessing.get_context("spawn")


class Worker:
    """A process that counts until it is killed."""

    def __init__(self, directory: Path, max_tenant_series: int = 200) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(directory, max_tenant_series, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self._connection.recv() == "ready"

    def do(self, act: Callable[..., Any], *args: object) -> Any:
        """Calls a function of this module in the process, with its metrics."""
        self._connection.send((act, args))
        return self._connection.recv()

    def samples(self) -> dict[str, float]:
        found: dict[str, float] = self.do(samples)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)
        assert -signal.SIGKILL == self.process.exitcode


def _work(directory: Path, max_tenant_series: int, connection: "Connection[Any, Any]") -> None:
    metrics = Metrics(directory, max_tenant_series)
    connection.send("ready")
    while True:
        act, args = connection.recv()
        connection.send(act(metrics, *args))


def share_and_wait(connection: "Connection[Any, Any]") -> None:
    """A supervisor: it owns a directory until it is killed."""
    with shared_directory() as directory:
        connection.send(str(directory))
        signal.pause()


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample, by its series as text."""
    text = generate_latest(metrics.registry).decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    lines = [(series, float(value)) for series, _, value in pairs]
    assert len(lines) == len(dict(lines)), "no series appears twice"
    return dict(lines)


def count(metrics: Metrics, amount: float = 1, tenant: str = "acme") -> None:
    metrics.images.labels("m", tenant, "u").inc(amount)


def call(metrics: Metrics) -> None:
    """A call that is in flight from now on."""
    metrics.upstream_calls_in_flight.labels("u").inc()


def observe(metrics: Metrics, seconds: float) -> None:
    metrics.queue_wait_seconds.observe(seconds)
    metrics.account_wait_seconds.labels("u").observe(seconds)
