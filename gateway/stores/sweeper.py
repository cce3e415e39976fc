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
_TICKETS_A_ROUND: Final = 100
"""Of one tenant."""
_NAMED: Final = 10
"""Tenants that a log line names."""

SettleExpired = Callable[[str, str], Awaitable[None]]


class Sweeper:
    """Looks through the open tickets of every tenant: O(tenants) a round, and beside the requests, never in them."""

    def __init__(
        self,
        redis: Client,
        settle_expired: SettleExpired,
        clock: Callable[[], float],
        *,
        round_s: float,
        own_id: str,
    ) -> None:
        self._redis = redis
        self._settle_expired = settle_expired
        self._clock = clock
        self._round_s = round_s
        self._own_id = own_id
        self._unreached: set[str] = set()
        """Tenants that could not be asked in the last round: in this one their living processes renew first."""

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
        """One round; a tenant or ticket that cannot be settled keeps no other.

        Raises: GatewayError REDIS_AWAY where not even the names can be read.
        Redis: one pipelined round trip a hundred tenants.
        """
        names = sorted(await answer(self._redis, self._redis.smembers(f"{PREFIX}:tenants"), set[str]))
        unreached: set[str] = set()
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            try:
                found = await self._expired(batch)
            except GatewayError:
                found = await self._expired_one_by_one(batch, unreached)
            for name, tickets in zip(batch, found, strict=True):
                if name not in self._unreached and not await self._settle(name, tickets):
                    unreached.add(name)
            if not await self._is_leader():
                break  # the round took longer than the lock
        if unreached - self._unreached:
            _LOG.warning("tenants_not_swept", tenants=sorted(unreached)[:_NAMED])
        self._unreached = unreached

    async def _settle(self, name: str, tickets: list[str]) -> bool:
        are_settled = True
        for ticket in tickets:
            try:
                await self._settle_expired(name, ticket)
            except GatewayError:
                are_settled = False
        return are_settled

    async def _expired_one_by_one(self, names: list[str], unreached: set[str]) -> list[list[str]]:
        """Likewise where some of them cannot be reached, which are added to `unreached`."""

        async def ask(name: str) -> list[str]:
            try:
                return (await self._expired([name]))[0]
            except GatewayError:
                unreached.add(name)
                return []

        return await asyncio.gather(*(ask(name) for name in names))

    async def _expired(self, names: list[str]) -> list[list[str]]:
        """By tenant, tickets whose time is over by this process's clock; settling looks at the server's."""
        now_ms = round(self._clock() * 1000)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.zrangebyscore(f"{PREFIX}:{{{name}}}:open", "-inf", now_ms, start=0, num=_TICKETS_A_ROUND)
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
