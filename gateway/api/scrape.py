"""`/metrics`: rendered in a thread, at most once a second, for all scrapers that wait."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from gateway.api.pool_gauges import PoolGauges
from gateway.domain.errors import GatewayError
from gateway.observability.metrics import ProcessCollector
from gateway.redis.preflight import RedisMemory
from gateway.scheduler import Scheduler

_INTERVAL_S: Final = 1.0
"""Minimum interval between renderings. Each reads every account and key of the pool from Redis."""
_INTERVAL_MAX_S: Final = 5.0
"""Half of the shipped scrape timeout."""
_PAUSES_PER_RENDERING: Final = 20
"""Multiple of a rendering's CPU time: requests wait for its interpreter lock at most 5 % of the time."""
_BETWEEN_RESPONSES_S: Final = 0.01
"""Responses of the same rendering, half a megabyte each, are spread: a burst of them delays other requests."""
_SPREAD_S: Final = 1.0
"""Limit on that delay, whatever the number of scrapers."""


class Exposition(Enum):
    """A text format of Prometheus, by its content type."""

    TEXT = CONTENT_TYPE_PLAIN_0_0_4
    OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST

    @classmethod
    def accepted(cls, accept: str) -> "Exposition":
        """OpenMetrics for scrapers that know it, as prometheus_client chooses."""
        return cls.OPENMETRICS if "application/openmetrics-text" in accept else cls.TEXT


_ENCODERS: Final[Mapping[Exposition, Callable[[CollectorRegistry], bytes]]] = MappingProxyType(
    {Exposition.TEXT: generate_latest, Exposition.OPENMETRICS: openmetrics.generate_latest}
)


class Scrape:
    """Renders metrics. All scrapers that wait share the next rendering, which starts after their request."""

    def __init__(
        self,
        registry: CollectorRegistry,
        process: ProcessCollector,
        pool: Scheduler,
        redis_memory: Callable[[], RedisMemory | None],
        version: str,
    ) -> None:
        self._registry = registry
        self._process = process
        self._pool = pool
        self._redis_memory = redis_memory
        self._gauges = PoolGauges(version)
        registry.register(self._gauges)
        self._is_rendering = asyncio.Lock()
        self._next: asyncio.Task[dict[Exposition, bytes]] | None = None
        """The rendering that has not started yet."""
        self._wanted: set[Exposition] = set()
        self._waiting = 0
        """Scrapers that share it."""
        self._next_s = -math.inf
        """When it may start, by the event loop's clock."""

    async def render(self, exposition: Exposition) -> bytes:
        """Waits for a rendering that starts after the call. Safe to cancel.

        Redis: one round trip an upstream, at most once a second.
        """
        if self._next is None:
            self._wanted, self._waiting = set(), 0
            self._next = asyncio.create_task(self._render(self._wanted))
        self._wanted.add(exposition)
        delay_s = self._waiting * _BETWEEN_RESPONSES_S % _SPREAD_S
        self._waiting += 1
        rendered = await asyncio.shield(self._next)  # other scrapers share it
        await asyncio.sleep(delay_s)
        return rendered[exposition]

    async def _render(self, wanted: set[Exposition]) -> dict[Exposition, bytes]:
        now = asyncio.get_running_loop().time
        async with self._is_rendering:
            await asyncio.sleep(self._next_s - now())
            self._next = None
            started_s = now()
            await self._read()
            rendered, cpu_s = await asyncio.to_thread(_encode, self._registry, wanted)
            self._next_s = started_s + min(max(_INTERVAL_S, _PAUSES_PER_RENDERING * cpu_s), _INTERVAL_MAX_S)
        return rendered

    async def _read(self) -> None:
        self._process.sample()
        try:
            self._gauges.statuses = await self._pool.snapshot()
        except GatewayError:
            self._gauges.statuses = None
        self._gauges.redis_memory = self._redis_memory()


def _encode(registry: CollectorRegistry, wanted: set[Exposition]) -> tuple[dict[Exposition, bytes], float]:
    """Returns the texts, and the CPU seconds that they took."""
    started_s = time.thread_time()
    rendered = {exposition: _ENCODERS[exposition](registry) for exposition in wanted}
    return rendered, time.thread_time() - started_s
