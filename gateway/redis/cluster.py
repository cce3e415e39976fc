"""Redis Cluster client."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPubSub
from redis.cluster import PRIMARY
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.redis.call_guard import CallGuard, translate_redis_errors
from gateway.redis.connections import LoadedScript, TcpConnection, Value, unassisted


class ScriptRunner:
    """Runs the scripts of a cluster one by one, because they go to different servers."""

    def __init__(self, redis: RedisCluster, guard: CallGuard) -> None:
        self._redis = redis
        self._guard = guard

    async def run(self, script: LoadedScript, keys: list[str], args: list[Value]) -> object:
        """Same interface as ScriptPipeline.run."""
        with translate_redis_errors():
            return await self._guard.run(self._call(script, keys, args), scripts=1)

    async def _call(self, script: LoadedScript, keys: list[str], args: list[Value]) -> object:
        try:
            return await self._redis.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self._redis.eval(script.text, len(keys), *keys, *args)


class ClusterClient(RedisCluster):
    """The cluster counterpart of Client."""

    def __init__(
        self,
        hosts: Iterable[tuple[str, int]],
        tls: ssl.SSLContext | None,
        deadline_s: float,
        prefix: str,
        **options: Any,
    ) -> None:
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            reinitialize_steps=0,  # otherwise every fifth MOVED reply closes all connections, in use or not
            **unassisted(),
            **options,
        )
        self.prefix = prefix
        self.commands_parser = _CommandsParser()
        self._refresh: asyncio.Future[None] | None = None
        self._primaries: set[str] = set()
        self.guard = CallGuard(deadline_s, self.invalidate_slots)
        self.scripts = ScriptRunner(self, self.guard)
        # redis-py has no option for the connection class of a cluster. Later nodes are built from the same options.
        self.connection_kwargs.update({"connection_class": TcpConnection, "tls": tls})
        for node in self.startup_nodes:
            node.connection_class = TcpConnection
            node.connection_kwargs["tls"] = tls

    async def initialize(self, *args: Any, **options: Any) -> "ClusterClient":
        """Loads the slot map if none is known.

        An older map stays in use while the next one loads. A node that lost a slot redirects to its new owner, and
        calls to other nodes need not wait for a dead one.
        """
        await self.refresh_slots(*args, is_awaited=self.get_default_node() is None, **options)
        return self

    async def refresh_slots(self, *args: Any, is_awaited: bool = True, **options: Any) -> None:
        """Refreshes the slot map unless it is current. All callers share one refresh, not cancelled with them."""
        if not self._initialize:
            return
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.ensure_future(self._load_slots(*args, **options))
            # all waiters may be gone, and asyncio would log its error as never retrieved
            self._refresh.add_done_callback(lambda refresh: refresh.cancelled() or refresh.exception())
        if is_awaited:
            await asyncio.shield(self._refresh)

    async def _load_slots(self, *args: Any, **options: Any) -> None:
        """Loads the slot map. The breaker stays closed for one hanging node while the others reply."""
        await super().initialize(*args, **options)
        primaries = {node.name for node in self.get_primaries()}
        if self._primaries - primaries:
            self.guard.on_opened()
        self._primaries = primaries

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Loads the slot map first; otherwise redis-py would ask a random node and be redirected."""
        await self.initialize()
        return await super().execute_command(*args, **options)

    async def aclose(self) -> None:
        """Closes all connections, even if the slot map is outdated, as redis-py does for a cluster that is down."""
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
        """Refreshes the slot map at the next call: redis-py does not see calls that the deadline cancelled."""
        self._initialize = True

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """Also returns a node that owns no slot yet, e.g. during migration. redis-py raises AttributeError for it."""
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
    """Loads the slot map before it subscribes, and refreshes it when a node is lost."""

    cluster: ClusterClient

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self.cluster.refresh_slots()
        try:
            return await super().execute_command(*args, **options)
        except (RedisConnectionError, RedisTimeoutError):
            await self.cluster.invalidate_slots()
            raise


class _CommandsParser(AsyncCommandsParser):
    """Reads COMMAND once. redis-py reads it with every slot map and drops the map if that fails."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if node:
            self.node = node
        if not self.commands:
            await super().initialize()
