"""Samples the process: its memory, open files, event loop, and gauges that other parts compute."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import Gauge

from gateway.observability.metrics import Metrics

_SAMPLED_EVERY_S: Final = 1.0
_PROC: Final = Path("/proc/self")
"""Linux only; elsewhere memory and open files are reported as 0."""


class ProcessCollector:
    """Samples the event loop's lag, memory, open files, and gauges that other parts compute."""

    def __init__(
        self, metrics: Metrics, sampled: Mapping[Gauge, Callable[[], float]], monotonic: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._sampled = sampled
        self._monotonic = monotonic

    async def run(self) -> None:
        """Never returns."""
        self._metrics.workers.set(1)
        while True:
            self.sample()
            due_s = self._monotonic() + _SAMPLED_EVERY_S
            await asyncio.sleep(_SAMPLED_EVERY_S)
            self._metrics.event_loop_lag_seconds.observe(max(0.0, self._monotonic() - due_s))

    def sample(self) -> None:
        """Called also before each scrape."""
        for gauge, read in self._sampled.items():
            gauge.set(read())
        with suppress(OSError, ValueError, IndexError):
            resident_pages = int((_PROC / "statm").read_text().split()[1])
            self._metrics.process_resident_memory_bytes.set(resident_pages * os.sysconf("SC_PAGE_SIZE"))
            self._metrics.process_open_fds.set(sum(1 for _ in (_PROC / "fd").iterdir()))
