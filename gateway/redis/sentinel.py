"""Connections to the master that sentinels name."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import RedisError

from gateway.redis.connections import Pool, TcpConnection

_CHECK_INTERVAL_S: Final = 1.0


class SentinelConnection(SentinelManagedConnection, TcpConnection):
    """Asks where the master is whenever it connects."""


class SentinelPool(Pool, SentinelConnectionPool):
    """Asks every second besides.

    A master that is replaced while it lives takes writes for seconds more, until a sentinel tells it: they are lost.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._next_check_s = 0.0
        self._check: asyncio.Task[None] | None = None

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        now_s = asyncio.get_running_loop().time()
        if self.master_address and now_s >= self._next_check_s:
            self._next_check_s = now_s + _CHECK_INTERVAL_S
            self._check = asyncio.ensure_future(self._watch_master())
            await asyncio.wait({self._check})
        return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        if self._check:
            await asyncio.wait({self._check})
        await super().aclose()
        await self.sentinel_manager.aclose()

    async def _watch_master(self) -> None:
        """Leave a master that is none any more: this closes the idle connections, and the others after their use."""
        known = self.master_address
        with suppress(RedisError, OSError):
            found = await self.get_master_address()  # type: ignore[no-untyped-call]
            if found != known:
                await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, order=True)
class _Master:
    """What a sentinel says; the later failover counts."""

    epoch: int
    host: str
    port: int


class Sentinels:
    """All are asked at once, for one that is gone would cost its time-out whenever its turn came.

    The answer of more than half of them is enough. An older master than the last one known is never gone back to: a
    sentinel that has not heard of the failover yet still names it.
    """

    def __init__(self, clients: list[Redis]) -> None:
        self._clients = clients
        self._epoch = 0
        self._asking: asyncio.Task[_Master | None] | None = None

    async def discover_master(self, name: str) -> tuple[str, int]:
        """Asked once for all connections that are made at a time. Raises: MasterNotFoundError."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask(name))
        asking = self._asking  # by the time that it has ended, somebody may have begun the next
        await asyncio.wait({asking})
        master = asking.result()
        if master is None or master.epoch < self._epoch:
            raise MasterNotFoundError(f"no sentinel that answers knows where the master '{name}' is")
        self._epoch = master.epoch
        return master.host, master.port

    async def aclose(self) -> None:
        if self._asking:
            await asyncio.wait({self._asking})
        for client in self._clients:
            await client.aclose()

    async def _ask(self, name: str) -> _Master | None:
        asked = [asyncio.ensure_future(_ask_one(client, name)) for client in self._clients]
        known: list[_Master] = []
        for answered in asyncio.as_completed(asked):
            known += await answered
            if len(known) > len(asked) / 2:
                break
        for task in asked:
            task.cancel()
        return max(known, default=None)


async def _ask_one(sentinel: Redis, name: str) -> list[_Master]:
    with suppress(RedisError, OSError):
        state = await sentinel.sentinel_master(name)
        if isinstance(state, dict) and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
            return [_Master(int(state["config-epoch"]), state["ip"], int(state["port"]))]
    return []
