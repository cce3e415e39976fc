"""The page of `/metrics`: rendered at most once a second, for all scrapers that wait."""

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
_BETWEEN_RESPONSES_S: Final = 0.01
"""Responses with the same page, which may have half a megabyte, are spread: a burst of them delays other requests."""
_SPREAD_S: Final = 1.0
"""Limit on that delay, whatever the number of scrapers."""


class Scrape:
    """Renders pages for scrapers. All that wait share the next page, which was begun after they came."""

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
        self._next: asyncio.Task[bytes] | None = None
        """The page that is not begun."""
        self._waiting = 0
        """Scrapers that it is for."""
        self._next_s = -math.inf
        """When it may be begun, by the clock of the event loop."""

    async def page(self) -> bytes:
        """Waits for a page that is begun after the call; safe to cancel.

        Redis: one round trip an upstream, at most once a second.
        """
        if self._next is None:
            self._next, self._waiting = asyncio.create_task(self._render()), 0
        delay_s = self._waiting * _BETWEEN_RESPONSES_S % _SPREAD_S
        self._waiting += 1
        page = await asyncio.shield(self._next)  # other scrapers wait for it too
        await asyncio.sleep(delay_s)
        return page

    async def _render(self) -> bytes:
        now = asyncio.get_running_loop().time
        await asyncio.sleep(self._next_s - now())
        self._next = None
        begun_s = now()
        self._next_s = begun_s + _PAUSE_MAX_S  # another page is not begun meanwhile
        truths = await self._look()
        looked_s = time.monotonic()
        page = self._metrics.render(truths)
        self._next_s = begun_s + min(max(_PAUSE_S, _PAUSES_A_PAGE * (time.monotonic() - looked_s)), _PAUSE_MAX_S)
        return page

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
