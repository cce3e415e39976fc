"""Connections to the master that sentinels report."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import RedisError

from gateway.redis.connections import Pool, TcpConnection

_CHECK_INTERVAL_S: Final = 1.0
_Master = tuple[int, str, int]
"""One sentinel's reply: the epoch of its configuration, host and port. The later failover wins."""


class SentinelConnection(SentinelManagedConnection, TcpConnection):
    """Asks the sentinels for the master on every connect."""


class SentinelPool(Pool, SentinelConnectionPool):
    """Also asks the sentinels every second.

    A live master that is replaced accepts writes for seconds more, until a sentinel demotes it. Those writes are lost.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
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
        """Leaves a former master: closes its idle connections now, and the others after use."""
        known = self.master_address
        with suppress(RedisError, OSError):
            found = await self.get_master_address()  # type: ignore[no-untyped-call]
            if found != known:
                await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]


class Sentinels:
    """Queries all sentinels in parallel, because a dead one would cost its timeout.

    A majority of replies is enough. It never returns to an older master than the last one known: a sentinel that
    missed the failover still reports it.
    """

    def __init__(self, clients: list[Redis]) -> None:
        self._clients = clients
        self._epoch = 0
        self._asking: asyncio.Task[_Master | None] | None = None

    async def discover_master(self, name: str) -> tuple[str, int]:
        """Returns the master's address; one query serves all concurrent connects. Raises: MasterNotFoundError."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask(name))
        asking = self._asking  # another caller may replace it before it ends
        await asyncio.wait({asking})
        master = asking.result()
        if master is None or master[0] < self._epoch:
            raise MasterNotFoundError(f"no reachable sentinel knows the master '{name}'")
        self._epoch, host, port = master
        return host, port

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
            return [(int(state["config-epoch"]), state["ip"], int(state["port"]))]
    return []
