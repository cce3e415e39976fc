"""Thousands of requests in the fair queue while no account has capacity."""

import re
import time

from bench.lag import Watch
from bench.process_table import memory_bytes
from bench.processes import Pool, Program, read_metrics
from bench.results import Row, at_least, at_most
from bench.run import Run, stage
from bench.traffic import Traffic

_LANES = 32
_RATE = 200.0
_FIRST = 32
"""Waiting before memory is measured: one-time costs of the first to wait belong to no request."""
_WATCHED_S = 3.0
"""After the arrival of all."""


def measure(run: Run) -> list[Row]:
    waiting = run.count(5000, 1000)
    with stage(run, delay_s=3600.0, pool=Pool(accounts=1, concurrency=_LANES)) as programs:
        gateway = programs.gateway
        with Traffic(gateway.plan(concurrency=_LANES + _FIRST, seconds=3600)) as first:
            _wait_for_queue(run, gateway, _FIRST, first)
            time.sleep(1)
            idle_bytes = memory_bytes(gateway.pid)
            with Watch(gateway) as watch, Traffic(gateway.plan(rate=_RATE, seconds=3600, count=waiting)) as traffic:
                reached = _wait_for_queue(run, gateway, _FIRST + waiting, traffic) - _FIRST
                each_bytes = (memory_bytes(gateway.pid) - idle_bytes) / waiting
                time.sleep(_WATCHED_S)
                lag = watch.lag()
    found = [Row(measure=f"{waiting:,} waiting: in the queue", gateway=reached, goal=at_least(waiting))]
    if reached < waiting:
        return found  # a shorter queue would give no valid result
    return [
        *found,
        Row(measure=f"{waiting:,} waiting: memory each, KB", gateway=each_bytes / 1024, goal=at_most(24)),
        Row(measure=f"{waiting:,} waiting: loop lag p99, ms", gateway=1000 * lag.p99_s, goal=at_most(100)),
    ]


def _wait_for_queue(run: Run, gateway: Program, waiting: int, traffic: Traffic) -> int:
    """Returns the queue length once all wait, or after three times their arrival time."""
    deadline_s = time.monotonic() + 15 + 3 * waiting / _RATE
    while (depth := _depth(gateway)) < waiting and time.monotonic() < deadline_s:
        time.sleep(1)
    run.report(f"{depth} wait" if depth >= waiting else f"only {depth} of {waiting} wait: {traffic.stop().failed}")
    return depth


def _depth(gateway: Program) -> int:
    found = re.search(r"^imagegate_queue_depth\{[^}]*\} (\d+)", read_metrics(gateway.port), re.MULTILINE)
    return int(found[1]) if found else 0
