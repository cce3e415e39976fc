"""The overload: many tenants send requests of 9 images, far beyond the capacity of their accounts."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import redis

from chaos.administration import Admin, Tenant
from chaos.clients import Clients
from chaos.configuration import CROWD
from chaos.environment import World
from chaos.observations import Caps
from chaos.orders import OPENAI, HangUp, Order
from chaos.phases import Overload, Scripts

TENANTS: Final = 100
_CLIENTS_A_TENANT: Final = 4
_CREATED_AT_ONCE: Final = 8
_RAMP_S: Final = 3.0
_PAUSE_S: Final = (2.0, 4.0)
"""Pause between two requests of a client."""
_SETTLE_S: Final = 2.0
"""Part of the phase: after the last request, abandoned ones are cancelled."""
_LAG_LOOK_S: Final = 0.05
_BREAKER: Final = '"redis_breaker_opened"'


def plan_crowd() -> list[Tenant]:
    """Returns tenants that take part in the overload only."""
    return [Tenant(f"crowd-{number:02}", Caps(), 1, None) for number in range(TENANTS)]


async def create_crowd(admin: Admin, crowd: Sequence[Tenant]) -> None:
    """Raises: AdminError."""
    limit = asyncio.Semaphore(_CREATED_AT_ONCE)

    async def create(tenant: Tenant) -> None:
        async with limit:
            await admin.create(tenant)

    await asyncio.gather(*(create(tenant) for tenant in crowd))


@dataclass(frozen=True, slots=True)
class Crowd:
    """The tenants and their clients."""

    world: World
    clients: Clients
    tenants: Sequence[Tenant]
    seed: int

    async def overload(self, seconds: float) -> Overload:
        """Sends for this many seconds; clients then abandon their waiting requests."""
        await self.world.fleet.settle()
        logs = {one.log: one.log.stat().st_size for one in self.world.fleet.serving()}
        lags = list[float]()
        with _Meter(self.world.redis.socket) as meter, _measuring_lag(lags):
            since_s = time.monotonic()
            await asyncio.gather(
                *(
                    self._keep_asking(tenant, number, since_s + seconds)
                    for tenant in self.tenants
                    for number in range(_CLIENTS_A_TENANT)
                )
            )
            await asyncio.sleep(_SETTLE_S)
            scripts = meter.read()
        opened = sum(_read_from(log, start).count(_BREAKER) for log, start in logs.items())
        return Overload(since_s, time.monotonic(), scripts, opened, max(lags))

    async def _keep_asking(self, tenant: Tenant, number: int, until_s: float) -> None:
        chance = Random(f"{self.seed}/{tenant.name}/{number}")  # noqa: S311 - it is to be repeatable
        await asyncio.sleep(chance.uniform(0, _RAMP_S))
        while (left_s := until_s - time.monotonic()) > 0:
            body = {"model": CROWD.model, "n": 9, "response_format": "url"}
            order = Order(OPENAI, "/v1/images/generations", body, "", 9, {}, HangUp.WAITING, left_s)
            await self.clients.ask(order, tenant)
            await asyncio.sleep(min(chance.uniform(*_PAUSE_S), max(0.0, until_s - time.monotonic())))


@contextmanager
def _measuring_lag(lags: list[float]) -> Iterator[None]:
    """Samples how much later than planned this event loop runs a timer."""

    async def measure() -> None:
        while True:
            due_s = time.monotonic() + _LAG_LOOK_S
            await asyncio.sleep(_LAG_LOOK_S)
            lags.append(time.monotonic() - due_s)

    task = asyncio.ensure_future(measure())
    try:
        yield
    finally:
        task.cancel()


class _Meter:
    """Measures the scripts of one server from its construction on."""

    def __init__(self, socket: Path) -> None:
        self._redis: Any = redis.Redis(unix_socket_path=str(socket))
        self._redis.config_resetstat()
        self._redis.slowlog_reset()
        self._cpu_s = self._read_cpu_s()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def read(self) -> Scripts:
        """Returns scripts run, commands they called, CPU seconds of the server, and seconds of the slowest script."""
        stats = self._redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
        scripts = calls.pop("evalsha", 0) + calls.pop("eval", 0)
        slow = [entry["duration"] / 1e6 for entry in self._redis.slowlog_get(-1) if b"EVAL" in entry["command"].upper()]
        return Scripts(scripts, sum(calls.values()), self._read_cpu_s() - self._cpu_s, max(slow, default=0.0))

    def _read_cpu_s(self) -> float:
        cpu = self._redis.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def _read_from(log: Path, start: int) -> str:
    return log.read_bytes()[start:].decode(errors="replace")
