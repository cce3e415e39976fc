"""Settles expired reservations of dead processes, for all tenants, by one process at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from redis.exceptions import ResponseError

from gateway.domain.errors import GatewayError
from gateway.redis import Client, LeaderLock, execute

_LOG = structlog.get_logger("imagegate.sweeper")
_BATCH: Final = 100
_RESERVATIONS_PER_PASS: Final = 100
"""Reservations of one tenant per pass, so that tenants take turns."""
_RESERVATIONS_PER_ROUND: Final = 10_000
"""No further pass starts beyond this number; other tenants continue in the next round."""
_NAMED: Final = 10
"""Limit on tenants named in a log line."""

SettleExpired = Callable[[str, str], Awaitable[None]]


@dataclass(slots=True)
class _Round:
    """Progress of one round."""

    attempted: int = 0
    """Reservations settled or attempted."""
    left: dict[str, int] = field(default_factory=dict)
    """By tenant: reservations that cannot be settled and stay at the front."""
    last: dict[str, list[str]] = field(default_factory=dict)
    """By tenant: reservations of the previous pass."""
    unreached: set[str] = field(default_factory=set)


class ExpiredReservationReaper:
    """Settles the expired reservations of every tenant: O(tenants) a round, outside the request path."""

    def __init__(
        self, redis: Client, settle_expired: SettleExpired, clock: Callable[[], float], *, round_s: float, own_id: str
    ) -> None:
        self._redis = redis
        self._settle_expired = settle_expired
        self._clock = clock
        self._round_s = round_s
        self._lock = LeaderLock(redis, "recovery_leader", own_id, max(1.0, 3 * round_s))
        self._unreached: set[str] = set()
        """Tenants that failed in the last round. In this round, live processes renew their leases first."""

    async def run(self) -> None:
        """Runs a round every `round_s` on the process that holds the lock; runs until cancelled.

        Skips one round at startup and after an outage, so that live processes renew their leases first.
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
                    _LOG.warning("recovery_failed", detail=error.detail)
                was_well = False

    async def sweep(self) -> None:
        """Runs one round of passes. A tenant or reservation that cannot be settled does not block others.

        Raises: GatewayError REDIS_UNAVAILABLE if the tenant names cannot be read.
        Redis: one pipelined round trip per 100 tenants, one per expired reservation.
        """
        names = sorted(await execute(self._redis, self._redis.smembers(f"{self._redis.prefix}:tenants"), set[str]))
        this = _Round()
        while names and this.attempted < _RESERVATIONS_PER_ROUND:
            names = await self._pass(names, this)
        if this.unreached - self._unreached:
            _LOG.warning("recovery_incomplete", tenants=sorted(this.unreached)[:_NAMED])
        self._unreached = this.unreached

    async def _pass(self, names: list[str], this: _Round) -> list[str]:
        """Returns: tenants that may have more; none if another process has the lock."""
        more: list[str] = []
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            for name, reservations in zip(batch, await self._expired(batch, this), strict=True):
                if name in self._unreached or reservations == this.last.get(name):
                    continue  # repeated entries have not expired by the server's clock
                if await self._settle(name, reservations, this) and len(reservations) == _RESERVATIONS_PER_PASS:
                    this.last[name] = reservations
                    more.append(name)
                    if not await self._is_leader():
                        return []  # the pass outlasted the lock
            if not await self._is_leader():
                return []
        return more

    async def _settle(self, name: str, reservations: list[str], this: _Round) -> bool:
        """Returns: True if the tenant is reachable."""
        for reservation in reservations:
            this.attempted += 1
            try:
                await self._settle_expired(name, reservation)
            except GatewayError as error:
                this.unreached.add(name)
                if not isinstance(error.__cause__, ResponseError):
                    return False
                this.left[name] = this.left.get(name, 0) + 1
        return True

    async def _expired(self, names: list[str], this: _Round) -> list[list[str]]:
        """Returns reservations by tenant that have expired by this process's clock. Settling checks the server's.

        After a failure it reads each tenant separately, as some are unreachable.
        """
        now_ms = round(self._clock() * 1000)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            key, start = f"{self._redis.prefix}:{{{name}}}:open", this.left.get(name, 0)
            pipeline.zrangebyscore(key, "-inf", now_ms, start=start, num=_RESERVATIONS_PER_PASS)
        try:
            return await execute(self._redis, pipeline.execute(), list[list[str]])
        except GatewayError:
            if len(names) == 1:
                this.unreached.update(names)
                return [[]]
        return [found for [found] in await asyncio.gather(*(self._expired([name], this) for name in names))]

    async def _is_leader(self) -> bool:
        """Acquires or extends the lock, which expires after three missed rounds."""
        return await self._lock.acquire() or await self._lock.renew()
