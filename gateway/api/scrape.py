"""`/metrics`: rendered in a thread, at most once a second, for all scrapers that wait."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.api.pool_gauges import PoolGauges
from gateway.domain.errors import GatewayError
from gateway.observability.process import ProcessCollector
from gateway.redis.preflight import RedisMemory
from gateway.scheduler import Scheduler

_INTERVAL_S: Final = 1.0
"""Minimum interval between renderings. Each reads every account and key of the pool from Redis."""
_INTERVAL_MAX_S: Final = 5.0
"""Half of the shipped scrape timeout."""
_PAUSES_PER_RENDERING: Final = 100
"""Multiple of the time that a rendering needs of Redis and of the interpreter, so that few requests meet one."""
_BETWEEN_RESPONSES_S: Final = 0.05
"""Minimum interval between responses: a pool of 300 accounts has half a megabyte of metrics."""
_SPREAD_S: Final = 3.0
"""Limit on the delay that this costs a scraper, whatever their number."""


TEXT: Final = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS: Final = openmetrics.CONTENT_TYPE_LATEST
_ENCODERS: Final[Mapping[str, Callable[[Collector], bytes]]] = MappingProxyType(
    {TEXT: generate_latest, OPENMETRICS: openmetrics.generate_latest}
)
"""By content type."""
_EOF: Final = b"# EOF\n"
"""The end of a page of OpenMetrics."""


@dataclass(slots=True, eq=False, repr=False)
class Scrape:
    """Renders metrics. All scrapers that wait share the next rendering, which starts after their request."""

    registry: CollectorRegistry
    process: ProcessCollector
    pool: Scheduler
    redis_memory: Callable[[], RedisMemory | None]
    gauges: PoolGauges
    count_events: Callable[[], Awaitable[tuple[int, int]]]
    """Returns the length of the outbox and the pending deliveries. Raises: GatewayError REDIS_UNAVAILABLE."""
    interval_max_s: float = _INTERVAL_MAX_S
    _is_rendering: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next: asyncio.Task[dict[str, bytes]] | None = None
    """The rendering that has not started yet."""
    _wanted: set[str] = field(default_factory=set)
    _next_s: float = -math.inf
    """When it may start, by the event loop's clock."""
    _next_response_s: float = -math.inf

    async def render(self, content_type: str) -> bytes:
        """Waits for a rendering that starts after the call. Safe to cancel.

        Redis: one round trip an upstream, at most once a second.
        """
        if self._next is None:
            self._wanted = set()
            self._next = asyncio.create_task(self._render(self._wanted))
        self._wanted.add(content_type)
        rendered = await asyncio.shield(self._next)  # other scrapers share it
        now_s = asyncio.get_running_loop().time()
        turn_s = min(max(self._next_response_s, now_s), now_s + _SPREAD_S)
        self._next_response_s = turn_s + _BETWEEN_RESPONSES_S
        await asyncio.sleep(turn_s - now_s)
        return rendered[content_type]

    async def _render(self, wanted: set[str]) -> dict[str, bytes]:
        now = asyncio.get_running_loop().time
        async with self._is_rendering:
            await asyncio.sleep(self._next_s - now())
            self._next = None
            started_s = now()
            self.process.sample()
            try:
                self.gauges.statuses = await self.pool.snapshot()
                self.gauges.events = await self.count_events()
            except GatewayError:
                self.gauges.statuses = None
            self.gauges.redis_memory = self.redis_memory()
            read_s = now() - started_s
            rendered, cpu_s = await asyncio.to_thread(_encode, self.registry, self.gauges, wanted)
            pause_s = _PAUSES_PER_RENDERING * (read_s + cpu_s)
            self._next_s = started_s + min(max(_INTERVAL_S, pause_s), self.interval_max_s)
        return rendered


def _encode(registry: CollectorRegistry, gauges: PoolGauges, wanted: set[str]) -> tuple[dict[str, bytes], float]:
    """Returns the texts, and the CPU seconds that they took."""
    started_s = time.thread_time()
    rendered, pool = {}, gauges.render()
    for content_type in wanted:
        text = _ENCODERS[content_type](registry)
        rendered[content_type] = text.removesuffix(_EOF) + pool + (_EOF if content_type == OPENMETRICS else b"")
    return rendered, time.thread_time() - started_s
