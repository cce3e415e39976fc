"""`imagegate serve`: startup time, and memory before the first request."""

import statistics
import time

from bench.process_table import memory_bytes
from bench.results import Row, at_most
from bench.run import Run, stage

_SETTLED_S = 2.0
_MB = 1024 * 1024


def measure(run: Run) -> list[Row]:
    seconds, memory = [], []
    for _ in range(run.count(5, 1)):
        with stage(run) as programs:
            seconds.append(programs.gateway.ready_after_s)
            time.sleep(_SETTLED_S)
            memory.append(memory_bytes(programs.gateway.pid) / _MB)
        run.report(f"{seconds[-1]:.2f} s, {memory[-1]:.0f} MB")
    return [
        Row(measure="start to ready, s", gateway=statistics.median(seconds), goal=at_most(1)),
        Row(measure="memory idle, MB", gateway=statistics.median(memory), goal=at_most(80)),
    ]
