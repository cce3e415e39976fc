"""Results in memory: those of SDKs' requests for 10 s, and those of requests with an Idempotency-Key until stored.

A result is *owed* if its request has a key, if its client has disconnected, or once another process asks for it. What
is owed is stored in the background, so neither the storage nor Redis delays a response. Invariant: at most an eighth
of the byte budget is owed, and a sixteenth is held besides: what waits for a slow storage refuses no request.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageResult
from gateway.generation.context import OrderNumbers
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs.outcomes import Outcomes, StoredImage
from gateway.redis import Client, subscribe
from gateway.storage.pictures import StoredPicture

HELD_S: Final = 10.0
"""SDKs retry within 8 s (reference/openai-images.md 6.3). The ending time of repeats.lua."""
_HELD_PART: Final = 16
"""Part of the byte budget for results that are not owed."""
_OWED_PART: Final = 8
_RESULTS_MAX: Final = 1000
"""Limit on each kind; most are links."""
_PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Before each attempt to store: a result that was paid for outlasts a restart of Redis or of the storage."""
_FLUSH_S: Final = 20.0
"""For the attempts, and for a slow storage."""
_LISTEN_PAUSE_S: Final = 0.5


@dataclass(slots=True, eq=False)
class HeldResult:
    """A result, with what is needed to store it."""

    tenant: str
    order_id: str
    result: ImageResult
    numbers: OrderNumbers
    kept_s: float
    """For which it is stored."""
    stored: Mapping[str, StoredPicture] = field(default_factory=dict)
    """Images of it that are in the storage already, by their links."""
    account: ByteAccount = field(default_factory=ByteAccount)
    is_over: bool = False
    """It was held for long enough."""
    storing: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class _Shelf:
    """Results by reservation ID, oldest first, and their limit in bytes."""

    max_bytes: int
    results: dict[str, HeldResult] = field(default_factory=dict)
    held_bytes: int = 0

    @property
    def is_over_full(self) -> bool:
        return self.held_bytes > self.max_bytes or len(self.results) > _RESULTS_MAX

    def add(self, held: HeldResult) -> Self:
        self.results[held.order_id] = held
        self.held_bytes += held.account.held_bytes
        return self

    def pop(self, order_id: str) -> HeldResult | None:
        held = self.results.pop(order_id, None)
        self.held_bytes -= held.account.held_bytes if held else 0
        return held


class HeldResults:
    """The results that this process holds, by reservation ID."""

    def __init__(self, outcomes: Outcomes, redis: Client, channel: str, budget: ByteBudget) -> None:
        self._outcomes, self._redis, self._channel, self._budget = outcomes, redis, channel, budget
        self._idle, self._owed = _Shelf(budget.max_bytes // _HELD_PART), _Shelf(budget.max_bytes // _OWED_PART)

    def get(self, order_id: str) -> HeldResult | None:
        return self._owed.results.get(order_id) or self._idle.results.get(order_id)

    def hold(self, held: HeldResult, *, is_owed: bool) -> bool:
        """Holds a result. One that is owed is stored when `store` is called, at the latest after 10 s.

        Returns: False if there is no room for one that is owed. Others make room for it, oldest first.
        """
        held.account = ByteAccount(self._budget, held.tenant)
        held.account.note(held.result.held_bytes)
        if not is_owed:
            self._keep_idle(held)
        elif self._owed.add(held).is_over_full:
            self._drop(held.order_id)
            return False
        asyncio.get_running_loop().call_later(HELD_S, self._end, held.order_id)
        return True

    def store(self, order_id: str) -> asyncio.Task[None] | None:
        """Begins to store a result, unless it has begun. Returns: the task; None if the result is not held."""
        held = self.get(order_id)
        if held and held.storing is None:
            if idle := self._idle.pop(order_id):
                self._owed.add(idle)
            held.storing = asyncio.get_running_loop().create_task(self._store(held))
        return held.storing if held else None

    async def listen(self) -> None:
        """Stores results that other processes ask for; runs until cancelled and reconnects after failures."""
        while True:
            with suppress(GatewayError, UnicodeDecodeError):  # a request that waits asks again
                async for order_id in subscribe(self._redis, self._channel):
                    self.store(order_id or "")
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def flush(self) -> None:
        """Stores what is owed before shutdown."""
        if tasks := list(filter(None, map(self.store, list(self._owed.results)))):
            await asyncio.wait(tasks, timeout=_FLUSH_S)

    async def _store(self, held: HeldResult) -> None:
        """Stores a result. It stays in memory as long as others if its images could not be stored."""
        images: tuple[StoredImage, ...] | None = None
        for attempt, pause_s in enumerate(_PAUSES_S, 1):
            await asyncio.sleep(pause_s)
            with suppress(GatewayError):
                images = images or await self._outcomes.store_images(
                    held.tenant, held.order_id, held.result.pictures, held.kept_s, held.stored
                )
                if images is None and self._outcomes.has_storage and attempt < len(_PAUSES_S):
                    continue
                await self._outcomes.store(held.tenant, held.order_id, held.result, held.numbers, held.kept_s, images)
                break
        if images or held.is_over:
            self._drop(held.order_id)
        elif unstored := self._owed.pop(held.order_id):
            self._keep_idle(unstored)

    def _keep_idle(self, held: HeldResult) -> None:
        self._idle.add(held)
        while self._idle.is_over_full and len(self._idle.results) > 1:
            self._drop(next(iter(self._idle.results)))

    def _end(self, order_id: str) -> None:
        """Ends the time for which a result is held."""
        if held := self.get(order_id):
            held.is_over = True
            if order_id in self._owed.results:
                self.store(order_id)
            if held.storing is None or held.storing.done():
                self._drop(order_id)

    def _drop(self, order_id: str) -> None:
        if held := self._owed.pop(order_id) or self._idle.pop(order_id):
            held.account.close()
