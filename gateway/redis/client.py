"""Client factory: a single server, the master behind sentinels, or a cluster."""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio import Redis

from gateway.redis.call_guard import CallGuard
from gateway.redis.cluster import ClusterClient
from gateway.redis.connections import Pool, SocketConnection, TcpConnection, pool_options, tls_context
from gateway.redis.pipelining import ScriptPipeline
from gateway.redis.sentinel import SentinelConnection, SentinelPool, Sentinels
from gateway.redis.url import Address, Credentials, Topology

_SOCKET_DEADLINES: Final = 16
"""Socket timeout, in deadlines. It closes orphaned connections, and must exceed every call's deadline."""
_NODE_SOCKET_DEADLINES: Final = 2
"""Socket timeout in a cluster, in deadlines: the slot map is read from one node after another."""
_SENTINEL_TIMEOUT_SHARE: Final = 0.4
"""Sentinel timeout, as a share of the deadline. A call may query sentinels twice before it connects to the master."""


class Client(Redis):
    """A redis-py client whose calls pass a CallGuard."""

    guard: CallGuard
    scripts: ScriptPipeline
    prefix: str
    """First part of every key and channel, before a colon."""

    def __init__(self, pool: Pool, deadline_s: float, prefix: str) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.prefix = prefix
        self.guard = CallGuard(deadline_s, pool.close_idle)
        self.scripts = ScriptPipeline(self, self.guard)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's
        await self.scripts.end()
        await super().aclose(close_connection_pool)

    async def infos(self, *sections: str) -> list[Mapping[str, object]]:
        """Returns these sections of INFO from every server that accepts writes."""
        return [await self.info(section) for section in sections]


def build(address: Address, login: Credentials, timeout_s: float, prefix: str) -> Client | ClusterClient:
    """Builds a client. Raises: ValueError for options that conflict."""
    options = _options(address, login, timeout_s)
    tls = tls_context(address.options) if address.is_encrypted else None
    if login.sentinel_secret and address.kind is not Topology.SENTINEL:
        raise ValueError("redis.sentinel_password needs redis+sentinel://")
    match address.kind:
        case Topology.SOCKET:
            pool = Pool(SocketConnection, **pool_options(), path=address.path, db=address.db, **options)
        case Topology.SERVER:
            pool = _server_pool(address.hosts[0], tls, db=address.db, **options)
        case Topology.SENTINEL:
            pool = _sentinel_pool(address, tls, login, timeout_s, options)
        case Topology.CLUSTER:
            options["socket_timeout"] = timeout_s * _NODE_SOCKET_DEADLINES
            return ClusterClient(address.hosts, tls, timeout_s, prefix, **options)
    return Client(pool, timeout_s, prefix)


def _options(address: Address, login: Credentials, timeout_s: float) -> dict[str, Any]:
    """Returns the options of every connection."""
    if address.password and login.secret:
        raise ValueError("it holds a password and redis.password is set; use only one")
    options: dict[str, Any] = {
        "username": login.username or address.username,
        "password": login.secret.reveal() if login.secret else address.password,
        "socket_timeout": timeout_s * _SOCKET_DEADLINES,
        "decode_responses": True,
        "driver_info": None,  # costs a round trip per connection
        "client_name": address.options.get("client_name"),
    }
    if "protocol" in address.options:
        options["protocol"] = int(address.options["protocol"])
    return options


def _server_pool(host: tuple[str, int], tls: ssl.SSLContext | None, **options: Any) -> Pool:
    return Pool(TcpConnection, **pool_options(), host=host[0], port=host[1], tls=tls, **options)


def _sentinel_pool(
    address: Address, tls: ssl.SSLContext | None, login: Credentials, timeout_s: float, options: Mapping[str, Any]
) -> SentinelPool:
    secret = login.sentinel_secret
    own = {**options, "username": None, "password": secret.reveal() if secret else None}
    own["socket_timeout"] = timeout_s * _SENTINEL_TIMEOUT_SHARE
    clients = [Redis.from_pool(_server_pool(host, tls, **own)) for host in address.hosts]
    return SentinelPool(
        service_name=address.master,
        sentinel_manager=Sentinels(clients),
        connection_class=SentinelConnection,
        **pool_options(),
        tls=tls,
        db=address.db,
        **options,
    )
