"""Injects the scheduled faults and records them."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

from chaos.administration import Admin, Tenant, other_caps
from chaos.clients import Clients
from chaos.environment import World
from chaos.gateways import PLACES, Gateway
from chaos.orders import poison
from chaos.overload import Crowd
from chaos.phases import Overload
from chaos.redis_faults import RedisFaults
from chaos.schedule import FEATURES, Fault

_EXCLUDED: Final = {
    "gateways": ("gateways",),
    "redis": ("redis",),
    "provider": ("provider",),
    "clock": ("gateways", "redis", "clock"),
    "load": ("gateways", "redis", "clock"),
}
"""Lanes that pause during a fault of this lane.

During an overload Redis is healthy and no gateway is killed. A lease that no process ends while the clock is ahead
lives longer by that much, so neither gateways nor Redis are affected meanwhile.
"""
_LOCK_ORDER: Final = ("gateways", "redis", "clock", "provider")
_LAG_S: Final = 1.5
"""Time until every gateway has read a changed file."""


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """An injected fault."""

    fault: Fault
    at_s: float
    """Since the start of the load."""
    ended_s: float
    note: str = ""


@dataclass
class FaultInjector:
    """Injects the faults of one run."""

    world: World
    admin: Admin
    clients: Clients
    tenants: Sequence[Tenant]
    crowd: Crowd
    seed: int
    tell: Callable[[str], None]
    began_s: float
    until_s: float
    """Since the start: the last time at which a fault may begin."""
    thrown: list[InjectedFault] = field(default_factory=list)
    left_out: list[Fault] = field(default_factory=list)
    """Faults that could not begin in time on a slow machine."""
    overloads: list[Overload] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.redis_faults = RedisFaults(self.world, self.clients, next(one for one in self.tenants if one.caps.is_free))
        self._locks = {lane: asyncio.Lock() for lane in _LOCK_ORDER}

    async def inject_all(self, faults: Sequence[Fault]) -> None:
        """Runs the lanes concurrently."""
        lanes: dict[str, list[Fault]] = {}
        for fault in faults:
            lanes.setdefault(fault.lane, []).append(fault)
        await asyncio.gather(*(self._inject_lane(lane) for lane in lanes.values()))
        await self.redis_faults.wait_for_requests()

    async def _inject_lane(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(max(0.0, fault.at_s - self._now_s()))
            async with AsyncExitStack() as stack:
                for lane in _locks_of(fault):
                    await stack.enter_async_context(self._locks[lane])
                at_s = self._now_s()
                if at_s > self.until_s:
                    self.left_out.append(fault)
                    continue
                self.tell(str(fault))
                note = await self._inject(fault)
            self.thrown.append(InjectedFault(fault, at_s, self._now_s(), note or ""))

    def _now_s(self) -> float:
        return time.monotonic() - self.began_s

    def _inject(self, fault: Fault) -> Awaitable[str | None]:
        match fault.lane:
            case "gateways":
                return self._inject_gateway_fault(fault)
            case "redis" | "clock":
                return self.redis_faults.inject(fault)
            case "load":
                return self._overload(fault)
            case "provider":
                return self._inject_provider_fault(fault)
            case _:
                return self._inject_admin_fault(fault)

    async def _inject_gateway_fault(self, fault: Fault) -> str | None:
        match fault.kind:
            case "kill" | "supervisor killed":
                return await self._kill(int(fault.target))
            case "worker killed":
                return self._kill_worker(int(fault.target))
            case "end":
                return await self._replace(int(fault.target))
            case _:
                return ", ".join([await self._replace(place) for place in range(PLACES)])

    async def _kill(self, place: int) -> str:
        """Kills a gateway; a supervisor starts another one."""
        gateway = self.world.fleet.at(place)
        if gateway is None:
            return "nobody there"
        self.world.fleet.kill(gateway)
        return f"{gateway.number} -> {await self._start(place)}"

    def _kill_worker(self, place: int) -> str:
        """Kills a worker; its supervisor restarts it."""
        gateway = self.world.fleet.at(place)
        pid = self.world.fleet.kill_worker(gateway) if gateway else None
        return f"process {pid}" if pid else "no worker there"

    async def _replace(self, place: int) -> str:
        """Replaces a gateway as a deployment does: the new one is ready before the old one ends."""
        old = self.world.fleet.at(place)
        new = await self._start(place)
        if old:
            self.world.fleet.end(old)
        return f"{old.number if old else '-'} -> {new}"

    async def _start(self, place: int) -> int:
        gateway = await self.world.fleet.start(place)
        await self.world.fleet.wait_until_ready(gateway)
        return gateway.number

    async def _overload(self, fault: Fault) -> str:
        overload = await self.crowd.overload(fault.seconds)
        self.overloads.append(overload)
        return f"{overload.scripts.count} scripts"

    async def _inject_provider_fault(self, fault: Fault) -> str | None:
        provider = self.world.provider
        match fault.kind:
            case "key dead":
                await self._apply_state(f"/keys/{fault.target}", 2049, fault.seconds)
            case "account broke":
                await self._apply_state(f"/accounts/{fault.target}", 1008, fault.seconds)
            case "window used up":
                remains_ms = round(fault.seconds * 1000)
                await provider.tell(f"/accounts/{fault.target}", {"answers": 2056, "remains_ms": remains_ms})
                await asyncio.sleep(fault.seconds)
            case "poison":
                free = next(tenant for tenant in self.tenants if not tenant.models and tenant.caps.is_free)
                asked = await self.clients.ask(poison(fault.number), free)
                return f"{asked.id}: {asked.status} {asked.code}"
            case kind:
                await provider.tell("/outage", {"kind": kind, "seconds": fault.seconds})
                await asyncio.sleep(fault.seconds)
        return None

    async def _apply_state(self, path: str, code: int, seconds: float) -> None:
        await self.world.provider.tell(path, {"answers": code})
        await asyncio.sleep(seconds)
        await self.world.provider.tell(path, {"answers": 0})

    async def _inject_admin_fault(self, fault: Fault) -> str | None:
        match fault.kind:
            case "key revoked":
                await self.admin.replace_key(self.tenants[int(fault.target)])
            case "limits changed":
                chance = Random(f"{self.seed}/{fault.at_s}")  # noqa: S311 - it is to be repeatable
                tenant = self.tenants[int(fault.target)]
                if tenant is not self.tenants[0]:  # one tenant remains unlimited, to check that everything serves
                    await self.admin.limit(tenant, other_caps(chance))
                return tenant.name
            case "wrong reload":
                await self._reload_wrongly()
            case "reload by signal":
                for gateway in self.world.fleet.serving():
                    self._signal(gateway)
            case _:
                self.version += fault.number
                self.world.configuration.vary(self.version)
                await asyncio.sleep(_LAG_S)
        return None

    async def _reload_wrongly(self) -> None:
        """Writes an invalid file for a moment; the former configuration stays in effect."""
        async with self.world.fleet.nobody_starts():
            good = self.world.configuration.read()
            self.world.configuration.write(good.replace('price_per_image_usd = "0.0047"', "price_per_image_usd = []"))
            await asyncio.sleep(_LAG_S)
            self.world.configuration.write(good)

    def _signal(self, gateway: Gateway) -> None:
        if gateway.is_alive:
            gateway.process.send_signal(signal.SIGHUP)


def _locks_of(fault: Fault) -> list[str]:
    """Returns the locks in an order that cannot deadlock. Calls that must outlast an outage need a healthy provider."""
    wanted = {*_EXCLUDED.get(fault.lane, ()), *(("provider",) if fault.kind in FEATURES["outages"] else ())}
    return [lane for lane in _LOCK_ORDER if lane in wanted]
