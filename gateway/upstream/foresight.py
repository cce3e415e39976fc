"""A lease that is asked for beside the admission, in the same message to Redis, where both are very likely to be given.

It is one that stands free: nobody waits in the queue, and it enters none. Where an upstream had no such lease, or a
tenant was refused, a moment ago, the admission goes first.

Invariant: a lease that is not used is given back, whatever ends the request.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.stores.pool import Demand, KeyPool, Lease

_CAREFUL_S: Final = 1.0
"""So a tenant over its limit takes an account from others once a second, for the time of one message."""
_KNOWN_MAX: Final = 10_000


class Early:
    """A lease that may come."""

    def __init__(self, upstream: str, asking: "asyncio.Task[Lease | None]", give_up: Callable[[Lease], None]) -> None:
        self.upstream = upstream
        self._asking: asyncio.Task[Lease | None] | None = asking
        self._give_up = give_up

    async def take(self) -> Lease | None:
        """It, where it was given; from now on it is the caller's. To be asked once."""
        assert self._asking
        lease = await asyncio.shield(self._asking)
        self._asking = None
        return lease

    def drop(self) -> None:
        """Give it back, now or when it comes, unless it was taken."""
        if self._asking:
            self._asking.add_done_callback(self._end)

    def _end(self, asking: "asyncio.Task[Lease | None]") -> None:
        lease = None if asking.cancelled() or asking.exception() else asking.result()
        if lease:
            self._give_up(lease)


class Foresight:
    """Whether a lease is worth asking for before its request is admitted."""

    def __init__(self, pool: KeyPool, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._monotonic = monotonic
        self._careful_until: dict[str, float] = {}
        """By tenant and by upstream, which "@" tells apart."""

    def ask(self, demand: Demand) -> Early | None:
        """To be taken or dropped."""
        now_s, tenant, upstream = self._monotonic(), demand.tenant, f"@{demand.upstream}"
        if self._careful_until.get(tenant, 0.0) > now_s or self._careful_until.get(upstream, 0.0) > now_s:
            return None
        asking = asyncio.get_running_loop().create_task(self._ask(demand))
        return Early(demand.upstream, asking, lambda lease: self._give_up(tenant, lease))

    async def _ask(self, demand: Demand) -> Lease | None:
        lease = await self._pool.lease_at_once(demand)
        if lease is None:
            self._be_careful(f"@{demand.upstream}")
        return lease

    def _give_up(self, tenant: str, lease: Lease) -> None:
        self._pool.abandon(lease)
        self._be_careful(tenant)

    def _be_careful(self, name: str) -> None:
        if len(self._careful_until) >= _KNOWN_MAX:
            self._careful_until.clear()
        self._careful_until[name] = self._monotonic() + _CAREFUL_S
