"""The page of `/metrics`: rendered at most once a second, whoever asks, one at a time."""

import asyncio
import math
from typing import Final

from gateway.domain.faults import GatewayError
from gateway.metrics import Metrics, Truth, families
from gateway.metrics.pulse import Pulse
from gateway.stores.pool import KeyPool
from gateway.web.truths import pool_truths

_PAUSE_S: Final = 1.0
"""Between two pages. Each reads every account and key of the pool from Redis."""


class Scrape:
    """Renders pages for scrapers. A scraper that comes too soon waits for the next page, so that none is stale."""

    def __init__(self, metrics: Metrics, pulse: Pulse, pool: KeyPool, version: str) -> None:
        self._metrics = metrics
        self._pulse = pulse
        self._pool = pool
        self._version = version
        self._lock = asyncio.Lock()
        self._page = b""
        self._begun_s = -math.inf
        """When the last page was begun, by the clock of the event loop."""
        self._next_s = -math.inf

    async def page(self) -> bytes:
        """A page that was begun after the call.

        Redis: one round trip an upstream, at most once a second.
        """
        now = asyncio.get_running_loop().time
        came_s = now()
        async with self._lock:  # scrapers leave it one by one, and so do their pages
            if self._begun_s < came_s:
                await asyncio.sleep(self._next_s - now())
                begun_s = now()
                self._next_s = begun_s + _PAUSE_S  # also when this scraper is cancelled
                self._page = await self._render()
                self._begun_s = begun_s
            return self._page

    async def _render(self) -> bytes:
        truths = [Truth(families.INFO, (self._version,), 1)]
        try:
            truths += pool_truths(await self._pool.look())
        except GatewayError:
            truths.append(Truth(families.REDIS_UP, (), 0))
        else:
            truths.append(Truth(families.REDIS_UP, (), 1))
        self._pulse.look()
        return self._metrics.render(truths)
