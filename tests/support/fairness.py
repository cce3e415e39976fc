"""Waiting requests at scarce accounts, and the order in which they are served."""

import asyncio
from collections.abc import Sequence

from gateway.domain.accounts import Account, AccountLimits
from gateway.redis import Client, execute
from gateway.scheduler import CallReport
from gateway.scheduler.scripts import record
from tests.support.pooling import Process, account

LONG_S = 100_000.0


def lanes(name: str, count: int = 1, images: int = 1_000_000) -> Account:
    """Returns an account with a concurrency limit."""
    return account(name, limits=AccountLimits(1_000_000, images, count))


async def in_line(redis: Client, count: int) -> None:
    """Waits until this many requests are queued."""
    async with asyncio.timeout(20):
        waiting = -1
        while waiting != count:
            await asyncio.sleep(0.005)
            waiting = await execute(redis, redis.zcard(record("sim", "queue")), int)


class Order:
    """Requests many leases, releases them immediately, and records their order."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.waiting: list[asyncio.Task[None]] = []

    def ask(self, process: Process, name: str, **changes: object) -> None:
        self.waiting.append(asyncio.ensure_future(self._ask(process, name, {"tenant": name} | changes)))

    async def _ask(self, process: Process, name: str, changes: dict[str, object]) -> None:
        lease = await process.take(**{"patience_s": LONG_S} | changes)
        self.served.append(name)
        await process.pool.release(lease, CallReport(images=1))

    async def all_served(self) -> Sequence[str]:
        async with asyncio.timeout(60):
            await asyncio.gather(*self.waiting)
        return self.served
