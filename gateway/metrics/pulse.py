"""What nobody counts as it happens: looked at each second, and before a scrape."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.metrics import Level, Metrics

_ROUND_S: Final = 1.0
_PROCESS: Final = Path("/proc/self")
"""Linux's; elsewhere memory and files are told as 0."""


class Pulse:
    """Of one process: how late its event loop is, what it takes of the machine, and what others are asked."""

    def __init__(
        self, metrics: Metrics, looks: Mapping[Level, Callable[[], float]], monotonic: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._looks = looks
        self._monotonic = monotonic

    async def run(self) -> None:
        """For ever."""
        self._metrics.processes.set(1)
        while True:
            self.look()
            due_s = self._monotonic() + _ROUND_S
            await asyncio.sleep(_ROUND_S)
            self._metrics.follow()
            self._metrics.loop_lag_seconds.observe(max(0.0, self._monotonic() - due_s))

    def look(self) -> None:
        for level, read in self._looks.items():
            level.set(read())
        with suppress(OSError, ValueError, IndexError):
            resident_pages = int((_PROCESS / "statm").read_text().split()[1])
            self._metrics.memory_bytes.set(resident_pages * os.sysconf("SC_PAGE_SIZE"))
            self._metrics.open_files.set(sum(1 for _ in (_PROCESS / "fd").iterdir()))
