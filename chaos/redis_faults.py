"""Faults of Redis: it stalls, dies, becomes unreachable, and its wall clock is stepped."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from chaos.administration import Tenant
from chaos.clients import Clients
from chaos.configuration import ACCOUNT_LANES, LEASE_S, STEADY
from chaos.environment import World
from chaos.observations import Asked
from chaos.orders import Order, steady_call
from chaos.phases import Outage
from chaos.schedule import FEATURES, Fault

_FILL_S: Final = 1.5
"""Time for the slow calls to reach the provider, before Redis becomes unavailable."""
_OUTLAST_S: Final = 7.0
"""How much longer than the outage the slow calls take: they are in flight when the gateways lease again."""
_ROUNDS: Final = 4
_ROUND_S: Final = 0.5
"""After the outage requests come in rounds; a breaker that is still open refuses those of the first."""
_RENEWAL_S: Final = LEASE_S / 4 + 1
"""Time in which each live process renews its leases: one written while the clock was ahead lives too long."""
_DAY_S: Final = 86_400
_NEAR_MIDNIGHT_S: Final = 300


@dataclass
class RedisFaults:
    """The Redis faults of one run, and the times that the reconciliation needs."""

    world: World
    clients: Clients
    tenant: Tenant
    """An unlimited tenant; it sends the slow calls."""
    outages: list[Outage] = field(default_factory=list)
    clock_steps_s: list[float] = field(default_factory=list)
    _asked: list[asyncio.Task[Asked]] = field(default_factory=list)

    async def inject(self, fault: Fault) -> str | None:
        """Returns a note for the report."""
        if fault.kind in FEATURES["outages"]:
            return await self._outlast_a_lease(fault)
        if fault.kind in FEATURES["clock"]:
            return await self._step_clock(fault)
        await self._be_unavailable(fault)
        return None

    async def wait_for_requests(self) -> None:
        """Waits until each request has its response."""
        await asyncio.gather(*self._asked)

    async def _be_unavailable(self, fault: Fault) -> None:
        redis, hole = self.world.redis, self.world.hole
        match fault.kind:
            case "redis stands still" | "redis stalls, long":
                redis.stand_still()
                await asyncio.sleep(fault.seconds)
                redis.go_on()
            case "black hole" | "black hole, then cut":
                hole.swallow()
                await asyncio.sleep(fault.seconds)
                hole.open(is_cut=fault.kind == "black hole, then cut")
            case _:
                await redis.stop(is_killed=fault.kind != "redis is restarted")
                await asyncio.sleep(fault.seconds)
                await redis.start()

    async def _outlast_a_lease(self, fault: Fault) -> str:
        """Calls of 9 images occupy the accounts before, during and after the outage; then others need capacity."""
        await self.world.fleet.settle()
        lanes = ACCOUNT_LANES * len(STEADY.accounts)
        slow = steady_call(9, f"[delay={_FILL_S + fault.seconds + _OUTLAST_S:.1f}]")
        self._ask(slow, lanes)
        await asyncio.sleep(_FILL_S)
        since_s = time.monotonic()
        await self._be_unavailable(fault)
        outage = Outage(since_s, time.monotonic())
        self.outages.append(outage)
        for _ in range(_ROUNDS):
            self._ask(steady_call(1), lanes // _ROUNDS)
            await asyncio.sleep(_ROUND_S)
        return f"{outage.until_s - outage.since_s:.1f} s"

    def _ask(self, order: Order, count: int) -> None:
        self._asked += [asyncio.ensure_future(self.clients.ask(order, self.tenant)) for _ in range(count)]

    async def _step_clock(self, fault: Fault) -> str | None:
        """Steps the clock, and back."""
        if not _NEAR_MIDNIGHT_S < time.time() % _DAY_S < _DAY_S - _NEAR_MIDNIGHT_S:
            return "left out: another day would begin"
        for offset_s in (fault.number, 0):
            self.clock_steps_s.append(time.monotonic())
            self.world.redis.clock.step(offset_s)
            if offset_s:
                await asyncio.sleep(fault.seconds)
        if fault.number > 0:
            await asyncio.sleep(_RENEWAL_S)
        return None
