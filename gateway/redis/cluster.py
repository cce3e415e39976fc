"""The client of a cluster."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPubSub
from redis.cluster import PRIMARY
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.redis.call_guard import CallGuard
from gateway.redis.connections import TcpConnection, no_notifications, no_retry
from gateway.redis.pipelining import ScriptRunner


class ClusterClient(RedisCluster):
    """What Client is for one server."""

    guard: CallGuard
    scripts: ScriptRunner

    def __init__(
        self, hosts: Iterable[tuple[str, int]], tls: ssl.SSLContext | None, deadline_s: float, **options: Any
    ) -> None:
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            retry=no_retry(),
            maint_notifications_config=no_notifications(),
            reinitialize_steps=0,  # else every fifth key that has moved closes all connections, in use or not
            **options,
        )
        self.commands_parser = _CommandsParser()
        self._refresh: asyncio.Future[None] | None = None
        self._primaries: set[str] = set()
        self.guard = CallGuard(deadline_s, self.invalidate_slots)
        self.scripts = ScriptRunner(self, self.guard)
        # redis-py lets nobody choose the class of a cluster's connections. Later nodes are made from the same options.
        chosen = {"connection_class": TcpConnection, "tls": tls}
        self.connection_kwargs.update(chosen)
        for node in self.startup_nodes:
            node.connection_class = TcpConnection
            node.connection_kwargs["tls"] = tls

    async def initialize(self, *args: Any, **options: Any) -> "ClusterClient":
        """See to it that it is known which node has what.

        Who knows an older map goes on with it while the next is learnt: a node that has lost a slot tells who has it
        now, and calls to the other nodes need not wait for one that is gone.
        """
        refresh = self._start_refresh(*args, **options)
        if refresh and self.get_default_node() is None:
            await _wait_for(refresh)
        return self

    async def refresh_slots(self) -> None:
        """Know the newest map."""
        if refresh := self._start_refresh():
            await _wait_for(refresh)

    def _start_refresh(self, *args: Any, **options: Any) -> "asyncio.Future[None] | None":
        """The one that learns for all, to the end though they may be given up; none where there is nothing to learn."""
        if not self._initialize:
            return None
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.ensure_future(self._load_slots(*args, **options))
            self._refresh.add_done_callback(_discard_error)
        return self._refresh

    async def _load_slots(self, *args: Any, **options: Any) -> None:
        """While the other nodes answer, the breaker does not open for one that hangs and is replaced."""
        await super().initialize(*args, **options)
        primaries = {node.name for node in self.get_primaries()}
        if self._primaries - primaries:
            self.guard.on_opened()
        self._primaries = primaries

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Know the nodes first: redis-py would try any, and be sent on."""
        await self.initialize()
        return await super().execute_command(*args, **options)

    async def aclose(self) -> None:
        """Unlike redis-py's also where the nodes are to be learnt anew. It does so itself when a cluster is down."""
        if self.guard.is_caller():
            await super().aclose()
            return
        await self.guard.end()
        if self._refresh:
            await asyncio.wait({self._refresh})
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)

    async def invalidate_slots(self) -> None:
        """Learn the nodes anew with the next call: a time-out that the deadline cut short tells redis-py nothing."""
        self._initialize = True

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """Also one that has no slot yet, though keys are moved to it: redis-py fails with an AttributeError there."""
        found = super().get_node(host, port, node_name)
        if found is None and node_name:
            host, _, number = node_name.rpartition(":")
            found = ClusterNode(host, number, PRIMARY, **self.connection_kwargs)
            self.nodes_manager.set_nodes(self.nodes_manager.nodes_cache, {found.name: found})
        return found

    def pubsub(self, *args: Any, **options: Any) -> ClusterPubSub:
        return _ClusterPubSub(self, *args, **options)

    async def infos(self, *sections: str) -> list[Mapping[str, object]]:
        await self.refresh_slots()
        return [await self.info(section, target_nodes=node) for node in self.get_primaries() for section in sections]


class _ClusterPubSub(ClusterPubSub):
    """Knows its cluster before it subscribes, and learns it anew when a node is gone."""

    def __init__(self, client: ClusterClient, *args: Any, **options: Any) -> None:
        super().__init__(client, *args, **options)
        self._client = client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self._client.refresh_slots()
        try:
            return await super().execute_command(*args, **options)
        except (RedisConnectionError, RedisTimeoutError):
            await self._client.invalidate_slots()
            raise


class _CommandsParser(AsyncCommandsParser):
    """Asks once where the keys of each command are: redis-py asks with every map, and forgets the map if that fails."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if node:
            self.node = node
        if not self.commands:
            await super().initialize()


async def _wait_for(refresh: "asyncio.Future[None]") -> None:
    """Without ending it, if its caller ends."""
    await asyncio.wait({refresh})
    refresh.result()


def _discard_error(refresh: "asyncio.Future[None]") -> None:
    """Everybody who waited may have gone: Python would complain that nobody took the error."""
    if not refresh.cancelled():
        refresh.exception()
