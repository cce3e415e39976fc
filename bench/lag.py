"""Event-loop lag, measured from outside and by the process itself."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.histograms import Histogram
from bench.processes import Program, read_metrics
from bench.traffic import Plan, Traffic

_FOR_EVER_S = 3600.0


@dataclass(frozen=True)
class Lag:
    """Lag over a period, in seconds."""

    p99_s: float
    """Of the responses of /healthz, which waits for nothing else; includes delays of a busy machine."""
    own_p99_s: float
    """By imagegate_event_loop_lag_seconds, sampled once a second; the maximum for a short period."""


class Watch(AbstractContextManager["Watch"]):
    """Requests /healthz fifty times a second."""

    def __init__(self, gateway: Program) -> None:
        self._gateway = gateway
        self._before = self._read()
        plan = Plan(port=gateway.port, path="/healthz", method="GET", pause_s=0.02, seconds=_FOR_EVER_S)
        self._traffic = Traffic(plan)

    def __exit__(self, *_: object) -> None:
        self._traffic.__exit__()

    def lag(self) -> Lag:
        """Returns the lag until now, at the end of the measurement."""
        return Lag(self._traffic.stop().p99_s, (self._read() - self._before).quantile(0.99))

    def _read(self) -> Histogram:
        return Histogram.read(read_metrics(self._gateway.port), "imagegate_event_loop_lag_seconds")
