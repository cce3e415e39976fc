"""The page of `/metrics`: rendered at most once a second for all scrapers, one at a time."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from gateway.domain.faults import GatewayError
from gateway.metrics import Metrics, Truth, families
from gateway.metrics.pulse import Pulse
from gateway.stores.inspection import RedisMemory
from gateway.stores.pool import KeyPool
from gateway.web.truths import pool_truths

_PAUSE_S: Final = 1.0
"""Between two pages, at least. Each reads every account and key of the pool from Redis."""
_PAUSE_MAX_S: Final = 5.0
"""Half of the shipped scrape timeout."""
_PAUSES_A_PAGE: Final = 400
"""In the time that rendering takes, 13 ms for 300 accounts. Pages then take under 1 % of the time, beyond any p99."""
_BETWEEN_SCRAPERS_S: Final = 0.01
"""Between two scrapers that are given the same page, which may have half a megabyte."""


class Scrape:
    """Renders pages for scrapers. A scraper that comes too soon waits for the next page, so that none is stale."""

    def __init__(
        self,
        metrics: Metrics,
        pulse: Pulse,
        pool: KeyPool,
        redis_memory: Callable[[], RedisMemory | None],
        version: str,
    ) -> None:
        self._metrics = metrics
        self._pulse = pulse
        self._pool = pool
        self._redis_memory = redis_memory
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
            if self._begun_s >= came_s:
                await asyncio.sleep(_BETWEEN_SCRAPERS_S)
                return self._page
            await asyncio.sleep(self._next_s - now())
            begun_s = now()
            self._next_s = begun_s + _PAUSE_S  # also when this scraper is cancelled
            truths = await self._look()
            looked_s = time.monotonic()
            self._page, self._begun_s = self._metrics.render(truths), begun_s
            self._next_s = begun_s + min(max(_PAUSE_S, _PAUSES_A_PAGE * (time.monotonic() - looked_s)), _PAUSE_MAX_S)
            return self._page

    async def _look(self) -> list[Truth]:
        truths = [Truth(families.INFO, (self._version,), 1)]
        try:
            truths += pool_truths(await self._pool.look())
        except GatewayError:
            truths.append(Truth(families.REDIS_UP, (), 0))
        else:
            truths.append(Truth(families.REDIS_UP, (), 1))
            if memory := self._redis_memory():
                truths.append(Truth(families.REDIS_USED_BYTES, (), memory.used_bytes))
                truths.append(Truth(families.REDIS_MAX_BYTES, (), memory.max_bytes))
        self._pulse.look()
        return truths
