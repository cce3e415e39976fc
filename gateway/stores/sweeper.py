"""Settles what dead processes left behind, for all tenants, by one process at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.domain.faults import GatewayError
from gateway.stores import PREFIX, Client, answer

_LOG = structlog.get_logger("imagegate.sweeper")
_BATCH: Final = 100
_LOCK: Final = f"{PREFIX}:sweeper"
_AT_ONCE: Final = 100
"""Expired tickets of one tenant that are settled in one round."""

SettleExpired = Callable[[str, str], Awaitable[None]]


class Sweeper:
    """Looks through the open tickets of every tenant: O(tenants) a round, and beside the requests, never in them."""

    def __init__(self, redis: Client, settle_expired: SettleExpired, *, round_s: float, own_id: str) -> None:
        self._redis = redis
        self._settle_expired = settle_expired
        self._round_s = round_s
        self._own_id = own_id

    async def run(self) -> None:
        """A round every `round_s`, by whichever process holds the lock; for ever.

        After an outage, and at the start, one round is left out: the living renew their leases first.
        """
        was_well = False
        while True:
            await asyncio.sleep(self._round_s)
            try:
                is_leader = await self._is_leader()
                if is_leader and was_well:
                    await self.sweep()
                was_well = True
            except GatewayError as error:
                if was_well:
                    _LOG.warning("sweep_failed", detail=error.detail)
                was_well = False

    async def sweep(self) -> None:
        """One round; a tenant that cannot be reached keeps no other.

        Raises: GatewayError REDIS_AWAY at the end, if there was one.
        Redis: one pipelined round trip a hundred tenants.
        """
        names = sorted(await answer(self._redis, self._redis.smembers(f"{PREFIX}:tenants"), set[str]))
        failure: GatewayError | None = None
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            try:
                await self._sweep(batch)
            except GatewayError:
                for name in batch:
                    try:
                        await self._sweep([name])
                    except GatewayError as error:
                        failure = error
            await asyncio.sleep(0)
        if failure:
            raise failure

    async def _sweep(self, names: list[str]) -> None:
        """Raises: GatewayError REDIS_AWAY."""
        for name, tickets in zip(names, await self._expired(names), strict=True):
            for ticket in tickets:
                await self._settle_expired(name, ticket)

    async def _expired(self, names: list[str]) -> list[list[str]]:
        """By tenant, tickets whose time is over by the clock of a server; settling looks again."""
        seconds, micros = await answer(self._redis, self._redis.time(), tuple[int, int])
        now_ms = seconds * 1000 + micros // 1000
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.zrangebyscore(f"{PREFIX}:{{{name}}}:open", "-inf", now_ms, start=0, num=_AT_ONCE)
        return await answer(self._redis, pipeline.execute(), list[list[str]])

    async def _is_leader(self) -> bool:
        """Take or keep the lock, which outlives three rounds of silence."""
        kept_ms = max(1000, round(3 * self._round_s * 1000))
        if await answer(self._redis, self._redis.set(_LOCK, self._own_id, nx=True, px=kept_ms), bool):
            return True
        holder = await answer(self._redis, self._redis.get(_LOCK), object)
        if holder != self._own_id:
            return False
        await answer(self._redis, self._redis.pexpire(_LOCK, kept_ms), bool)
        return True
