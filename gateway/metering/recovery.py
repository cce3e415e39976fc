"""Settles what dead processes left behind, for all tenants, by one process at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from redis.exceptions import ResponseError

from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Client, execute

_LOG = structlog.get_logger("imagegate.sweeper")
_BATCH: Final = 100
_LOCK: Final = f"{PREFIX}:recovery_leader"
_RESERVATIONS_PER_PASS: Final = 100
"""Of one tenant; as many of each other tenant come before its next."""
_RESERVATIONS_PER_ROUND: Final = 10_000
"""After so many no further pass begins: other tenants are looked at again in the next round."""
_NAMED: Final = 10
"""Tenants that a log line names."""

SettleExpired = Callable[[str, str], Awaitable[None]]


@dataclass(slots=True)
class _Round:
    """What one round has come to so far."""

    asked: int = 0
    """Tickets that were settled, or tried."""
    left: dict[str, int] = field(default_factory=dict)
    """By tenant: tickets that cannot be settled, and stay in front of the others."""
    last: dict[str, list[str]] = field(default_factory=dict)
    """By tenant: what the pass before asked for."""
    unreached: set[str] = field(default_factory=set)


class ExpiredReservationReaper:
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
                    _LOG.warning("recovery_failed", detail=error.detail)
                was_well = False

    async def sweep(self) -> None:
        """One round: passes over the tenants that have more; a tenant or ticket that cannot be settled keeps no other.

        Raises: GatewayError REDIS_UNAVAILABLE where not even the names can be read.
        Redis: one pipelined round trip a hundred tenants, one a ticket that has expired.
        """
        names = sorted(await execute(self._redis, self._redis.smembers(f"{PREFIX}:tenants"), set[str]))
        this = _Round()
        while names and this.asked < _RESERVATIONS_PER_ROUND:
            names = await self._pass(names, this)
        if this.unreached - self._unreached:
            _LOG.warning("recovery_incomplete", tenants=sorted(this.unreached)[:_NAMED])
        self._unreached = this.unreached

    async def _pass(self, names: list[str], this: _Round) -> list[str]:
        """Returns: the tenants that may have more; none when another process has the lock."""
        more: list[str] = []
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            try:
                found = await self._expired(batch, this)
            except GatewayError:
                found = await self._expired_one_by_one(batch, this)
            for name, reservations in zip(batch, found, strict=True):
                if name in self._unreached or reservations == this.last.get(name):
                    continue  # what comes again is not over by the server's clock
                if await self._settle(name, reservations, this) and len(reservations) == _RESERVATIONS_PER_PASS:
                    this.last[name] = reservations
                    more.append(name)
                    if not await self._is_leader():
                        return []  # it took longer than the lock
            if not await self._is_leader():
                return []
        return more

    async def _settle(self, name: str, reservations: list[str], this: _Round) -> bool:
        """Returns: whether the tenant can be reached."""
        for reservation in reservations:
            this.asked += 1
            try:
                await self._settle_expired(name, reservation)
            except GatewayError as error:
                this.unreached.add(name)
                if not isinstance(error.__cause__, ResponseError):
                    return False
                this.left[name] = this.left.get(name, 0) + 1
        return True

    async def _expired_one_by_one(self, names: list[str], this: _Round) -> list[list[str]]:
        """Asks for each tenant by itself, as some cannot be reached."""

        async def ask(name: str) -> list[str]:
            try:
                return (await self._expired([name], this))[0]
            except GatewayError:
                this.unreached.add(name)
                return []

        return await asyncio.gather(*(ask(name) for name in names))

    async def _expired(self, names: list[str], this: _Round) -> list[list[str]]:
        """By tenant, tickets whose time is over by this process's clock; settling looks at the server's."""
        now_ms = round(self._clock() * 1000)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            key, start = f"{PREFIX}:{{{name}}}:open", this.left.get(name, 0)
            pipeline.zrangebyscore(key, "-inf", now_ms, start=start, num=_RESERVATIONS_PER_PASS)
        return await execute(self._redis, pipeline.execute(), list[list[str]])

    async def _is_leader(self) -> bool:
        """Take or keep the lock, which outlives three rounds of silence."""
        kept_ms = max(1000, round(3 * self._round_s * 1000))
        if await execute(self._redis, self._redis.set(_LOCK, self._own_id, nx=True, px=kept_ms), bool):
            return True
        holder = await execute(self._redis, self._redis.get(_LOCK), object)
        if holder != self._own_id:
            return False
        await execute(self._redis, self._redis.pexpire(_LOCK, kept_ms), bool)
        return True
