"""The client of a cluster."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.stores.batches import Singly
from gateway.stores.connections import TcpConnection, no_notifications, no_retry
from gateway.stores.guard import Guard


class ClusterClient(RedisCluster):
    """What Client is for one server."""

    guard: Guard
    scripts: Singly

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
        self._learning: asyncio.Future[RedisCluster] | None = None
        self.guard = Guard(deadline_s, self.forget)
        self.scripts = Singly(self, self.guard)
        # redis-py lets nobody choose the class of a cluster's connections. Later nodes are made from the same options.
        chosen = {"connection_class": TcpConnection, "tls": tls}
        self.connection_kwargs.update(chosen)
        for node in self.startup_nodes:
            node.connection_class = TcpConnection
            node.connection_kwargs["tls"] = tls

    async def initialize(self, *args: Any, **options: Any) -> "ClusterClient":
        """Learn which node has what, once for all who wait, and to the end though they may be given up."""
        if self._initialize:
            if self._learning is None or self._learning.done():
                self._learning = asyncio.ensure_future(super().initialize(*args, **options))
                self._learning.add_done_callback(_take_note)
            learning = self._learning  # by the time that it has ended, somebody may have begun the next
            await asyncio.wait({learning})
            learning.result()
        return self

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
        if self._learning:
            await asyncio.wait({self._learning})
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)

    async def forget(self) -> None:
        """Learn the nodes anew with the next call: a time-out that the deadline cut short tells redis-py nothing."""
        self._initialize = True

    def pubsub(self, *args: Any, **options: Any) -> ClusterPubSub:
        return _ClusterPubSub(self, *args, **options)

    async def infos(self, *sections: str) -> list[Mapping[str, object]]:
        await self.initialize()
        return [await self.info(section, target_nodes=node) for node in self.get_primaries() for section in sections]


class _ClusterPubSub(ClusterPubSub):
    """Knows its cluster before it subscribes, and learns it anew when a node is gone."""

    def __init__(self, client: ClusterClient, *args: Any, **options: Any) -> None:
        super().__init__(client, *args, **options)
        self._client = client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self._client.initialize()
        try:
            return await super().execute_command(*args, **options)
        except (RedisConnectionError, RedisTimeoutError):
            await self._client.forget()
            raise


def _take_note(learning: "asyncio.Future[RedisCluster]") -> None:
    """Everybody who waited may have gone: Python would complain that nobody took the error."""
    if not learning.cancelled():
        learning.exception()
