"""uvicorn's configuration with this gateway's limits."""

import asyncio
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from gateway.config import Settings
from gateway.server.sockets import own_ports
from gateway.server.tls import Certificate

_LOG = structlog.get_logger("imagegate.http")
_KEEP_ALIVE_S: Final = 75
"""Longer than the idle time-out of common proxies in front, so that they never use a connection that is closing."""
_CERTIFICATE_POLL_S: Final = 1
_HEADS_PART: Final = 8
"""Unfinished heads may hold this part of `max_memory_bytes`, in addition."""
_HEADS_MIN: Final = 16
TLS_BYTES: Final = 256 * 1024
"""Limit on the memory of an idle connection with TLS (server/tls_protocol.py): measured are at most 110 KiB, and 220
after a large client hello."""
_FILES: Final = 128
"""File descriptors for Redis (32 for calls, some for channels), listeners, the log, the journal and libraries."""
_FILES_PER_CALL: Final = 2
"""The connection of an upstream call, and that of an image download."""
_OPERATOR_CONNECTIONS: Final = 64
"""Connections on the port of the admin API, and on that of the metrics."""
_OPERATOR_PORTS: Final = 2
_REJECTION_LOG_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one connection."""

    max_header_bytes: int = 64 * 1024
    """Request line and headers together: OpenAI's own limit (reference/openai-images.md 6.2)."""
    header_timeout_s: float = 30.0
    write_timeout_s: float = 300.0
    """For a full write buffer to be read, and for the rest of it once the connection closes."""
    fields_max: int = 256
    """Header fields of one request. Browsers send about 20; each costs more memory than its bytes."""
    pipelined_max: int = 32
    """Requests sent before the response to the first one. Common clients do not pipeline (RFC 9112 section 9.3.2)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on the connections of one listener in one process."""

    in_all: int = sys.maxsize
    per_address: int = sys.maxsize
    """IPv6 addresses count by /64."""
    head_bytes: int = sys.maxsize
    """Of all unfinished heads and pipelined requests together."""
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks of proxies, which carry many clients: not bounded by address, and trusted for X-Forwarded-* headers."""


@dataclass(frozen=True, slots=True)
class Room:
    """Open files and connections of one process, within `ulimit -Hn`."""

    files: int
    """The hard limit, to which `allow_files` raises the soft one."""
    wanted: int
    """`max_connections`; with TLS at most one for each 256 KiB of `max_memory_bytes`."""
    connections: int
    own_port_connections: int
    wanted_files: int
    """The limit that the wanted connections fit within."""


class RejectionLog:
    """Logs the first rejection for each problem immediately, and the number of further ones each minute.

    Clients control the volume. Problems are a closed set: ours and the parser's, never text from a client.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        """Rejections not yet logged, of problems that were logged within the interval."""

    def add(self, problem: str) -> None:
        if problem in self._counts:
            self._counts[problem] += 1
        else:
            self._log(problem, 1)

    def _log(self, problem: str, count: int) -> None:
        _LOG.warning("connections_rejected", problem=problem, count=count)
        self._counts[problem] = 0
        asyncio.get_running_loop().call_later(_REJECTION_LOG_INTERVAL_S, self._end_interval, problem)

    def _end_interval(self, problem: str) -> None:
        if count := self._counts.pop(problem):
            self._log(problem, count)


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with limits on connections and on shutdown; workers receive a copy."""

    connection_limits: ConnectionLimits = ConnectionLimits()
    bounds: Bounds = Bounds()
    own_bounds: Mapping[int, Bounds] = MappingProxyType({})
    """Bounds of operators' ports."""
    shutdown_timeout_s: float = 5.0
    shutdown_delay_s: float = 0.0
    certificate: Certificate | None = None
    rejections: RejectionLog
    late_ports: frozenset[int] = frozenset()
    """Ports that accept connections until the last request is done, so that it is still counted in a scrape."""


def server_config(app: ASGIApp | str, shutdown_timeout_s: float, proxies: Sequence[str] = ()) -> ServerConfig:
    """The configuration of the gateway and the simulator. `proxies` are trusted for the client's address."""
    config = ServerConfig(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    config.shutdown_timeout_s = shutdown_timeout_s
    config.rejections = RejectionLog()
    return config


def gateway_config(app: ASGIApp, settings: Settings) -> ServerConfig:
    """Raises: SettingsError for a certificate that cannot be used."""
    server, room = settings.server, find_room(settings)
    proxies = tuple(ip_network(proxy) for proxy in server.trusted_proxies)
    mapped = [  # which a dual-stack socket reports (RFC 4291 section 2.5.5.2)
        f"::ffff:{proxy.network_address}/{96 + proxy.prefixlen}" for proxy in proxies if proxy.version == 4
    ]
    config = server_config(app, server.shutdown_timeout_s, [*map(str, proxies), *mapped])
    config.shutdown_delay_s = server.shutdown_delay_s
    config.connection_limits = ConnectionLimits(
        server.max_header_bytes, server.header_timeout_s, server.write_timeout_s
    )
    head_bytes = max(_HEADS_MIN * server.max_header_bytes, server.max_memory_bytes // _HEADS_PART)
    per_address = min(server.max_connections_per_address or max(room.connections // 2, 1), room.connections)
    config.bounds = Bounds(room.connections, per_address, head_bytes, proxies)
    operator_bounds = Bounds(room.own_port_connections, max(room.own_port_connections // 2, 1), head_bytes, proxies)
    config.own_bounds = {table.port: operator_bounds for table in own_ports(settings).values()}
    if settings.metrics.port:
        config.late_ports = frozenset({settings.metrics.port})
    if server.tls:
        config.certificate = certificate = Certificate(server.tls)
        if warning := certificate.expiry_warning():
            remedy = "renew it; changed files are read automatically"
            _LOG.warning("certificate_expiring", detail=warning, hint=remedy)
        config.callback_notify = partial(asyncio.to_thread, certificate.poll)
        config.timeout_notify = _CERTIFICATE_POLL_S
    return config


def find_room(settings: Settings) -> Room:
    """Reserves files for Redis, upstream calls and operators' ports: at most half, so that clients are served too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    calls = sum(account.max_concurrency for upstream in settings.upstreams for account in upstream.accounts)
    wanted = _FILES + _OPERATOR_PORTS * _OPERATOR_CONNECTIONS + _FILES_PER_CALL * calls
    reserve = min(wanted, files // 2)
    limit = settings.server.max_connections
    if settings.server.tls:
        limit = max(min(limit, settings.server.max_memory_bytes // TLS_BYTES), 1)
    return Room(
        files,
        limit,
        max(min(limit, files - reserve), 1),
        max(min(_OPERATOR_CONNECTIONS, reserve // 4), 1),
        limit + min(wanted, limit),
    )


def allow_files(room: Room) -> None:
    """Raises the soft limit of this process and its children as far as needed; never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in {hard, resource.RLIM_INFINITY} and soft < room.wanted_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(room.files, room.wanted_files), hard))
