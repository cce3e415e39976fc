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
from chaos.redis_blows import RedisBlows
from chaos.schedule import FEATURES, Blow

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
class Thrown:
    """An injected fault."""

    blow: Blow
    at_s: float
    """Since the start of the load."""
    ended_s: float
    note: str = ""


@dataclass
class Thrower:
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
    thrown: list[Thrown] = field(default_factory=list)
    left_out: list[Blow] = field(default_factory=list)
    """Faults that could not begin in time on a slow machine."""
    overloads: list[Overload] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.at_redis = RedisBlows(self.world, self.clients, next(one for one in self.tenants if one.caps.is_free))
        self._locks = {lane: asyncio.Lock() for lane in _LOCK_ORDER}

    async def throw_all(self, blows: Sequence[Blow]) -> None:
        """Runs the lanes concurrently."""
        lanes: dict[str, list[Blow]] = {}
        for blow in blows:
            lanes.setdefault(blow.lane, []).append(blow)
        await asyncio.gather(*(self._throw_lane(lane) for lane in lanes.values()))
        await self.at_redis.wait_for_requests()

    async def _throw_lane(self, blows: Sequence[Blow]) -> None:
        for blow in blows:
            await asyncio.sleep(max(0.0, blow.at_s - self._now_s()))
            async with AsyncExitStack() as stack:
                for lane in _locks_of(blow):
                    await stack.enter_async_context(self._locks[lane])
                at_s = self._now_s()
                if at_s > self.until_s:
                    self.left_out.append(blow)
                    continue
                self.tell(str(blow))
                note = await self._throw(blow)
            self.thrown.append(Thrown(blow, at_s, self._now_s(), note or ""))

    def _now_s(self) -> float:
        return time.monotonic() - self.began_s

    def _throw(self, blow: Blow) -> Awaitable[str | None]:
        match blow.lane:
            case "gateways":
                return self._at_gateways(blow)
            case "redis" | "clock":
                return self.at_redis.throw(blow)
            case "load":
                return self._overload(blow)
            case "provider":
                return self._at_the_provider(blow)
            case _:
                return self._as_operators(blow)

    async def _at_gateways(self, blow: Blow) -> str | None:
        match blow.kind:
            case "kill" | "supervisor killed":
                return await self._kill(int(blow.target))
            case "worker killed":
                return self._kill_worker(int(blow.target))
            case "end":
                return await self._replace(int(blow.target))
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

    async def _overload(self, blow: Blow) -> str:
        overload = await self.crowd.overload(blow.seconds)
        self.overloads.append(overload)
        return f"{overload.scripts.count} scripts"

    async def _at_the_provider(self, blow: Blow) -> str | None:
        provider = self.world.provider
        match blow.kind:
            case "key dead":
                await self._sicken(f"/keys/{blow.target}", 2049, blow.seconds)
            case "account broke":
                await self._sicken(f"/accounts/{blow.target}", 1008, blow.seconds)
            case "window used up":
                remains_ms = round(blow.seconds * 1000)
                await provider.tell(f"/accounts/{blow.target}", {"answers": 2056, "remains_ms": remains_ms})
                await asyncio.sleep(blow.seconds)
            case "poison":
                free = next(tenant for tenant in self.tenants if not tenant.models and tenant.caps.is_free)
                asked = await self.clients.ask(poison(blow.number), free)
                return f"{asked.id}: {asked.status} {asked.code}"
            case kind:
                await provider.tell("/outage", {"kind": kind, "seconds": blow.seconds})
                await asyncio.sleep(blow.seconds)
        return None

    async def _sicken(self, path: str, code: int, seconds: float) -> None:
        await self.world.provider.tell(path, {"answers": code})
        await asyncio.sleep(seconds)
        await self.world.provider.tell(path, {"answers": 0})

    async def _as_operators(self, blow: Blow) -> str | None:
        match blow.kind:
            case "key revoked":
                await self.admin.replace_key(self.tenants[int(blow.target)])
            case "limits changed":
                chance = Random(f"{self.seed}/{blow.at_s}")  # noqa: S311 - it is to be repeatable
                tenant = self.tenants[int(blow.target)]
                if tenant is not self.tenants[0]:  # one tenant remains unlimited, to check that everything serves
                    await self.admin.limit(tenant, other_caps(chance))
                return tenant.name
            case "wrong reload":
                await self._reload_wrongly()
            case "reload by signal":
                for gateway in self.world.fleet.serving():
                    self._signal(gateway)
            case _:
                self.version += blow.number
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


def _locks_of(blow: Blow) -> list[str]:
    """Returns the locks in an order that cannot deadlock. Calls that must outlast an outage need a healthy provider."""
    wanted = {*_EXCLUDED.get(blow.lane, ()), *(("provider",) if blow.kind in FEATURES["outages"] else ())}
    return [lane for lane in _LOCK_ORDER if lane in wanted]
