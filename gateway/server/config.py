"""uvicorn's configuration with this gateway's limits."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from types import MappingProxyType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Settings
from gateway.server.connections import Bounds
from gateway.server.limits import ConnectionLimits, find_room
from gateway.server.rejections import RejectionLog
from gateway.server.sockets import own_ports
from gateway.server.tls import Certificate

_KEEP_ALIVE_S: Final = 75
"""Longer than the idle time-out of common proxies in front, so that they never use a connection that is closing."""
_CERTIFICATE_POLL_S: Final = 1
_HEADS_PART: Final = 8
"""Unfinished heads may hold this part of `max_memory_bytes`, in addition."""
_HEADS_MIN: Final = 16


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
    server = settings.server
    config = server_config(app, server.shutdown_timeout_s, _with_mapped(server.trusted_proxies))
    config.shutdown_delay_s = server.shutdown_delay_s
    config.connection_limits = ConnectionLimits(
        server.max_header_bytes, server.header_timeout_s, server.write_timeout_s
    )
    room, limit = find_room(settings), server.max_connections_per_address
    exempt = tuple(ip_network(proxy) for proxy in server.trusted_proxies)
    head_bytes = max(_HEADS_MIN * server.max_header_bytes, server.max_memory_bytes // _HEADS_PART)
    per_address = min(limit or max(room.connections // 2, 1), room.connections)
    config.bounds = Bounds(room.connections, per_address, head_bytes, exempt)
    operator_bounds = Bounds(room.own_port_connections, max(room.own_port_connections // 2, 1), head_bytes, exempt)
    config.own_bounds = {table.port: operator_bounds for table in own_ports(settings).values()}
    if settings.metrics.port:
        config.late_ports = frozenset({settings.metrics.port})
    if server.tls:
        certificate = Certificate(server.tls)
        certificate.log_expiry()
        config.certificate = certificate
        config.callback_notify, config.timeout_notify = certificate.poll_async, _CERTIFICATE_POLL_S
    return config


def _with_mapped(proxies: Sequence[str]) -> list[str]:
    """Adds IPv4-mapped IPv6 networks, which a dual-stack socket reports (RFC 4291 section 2.5.5.2)."""
    networks = [ip_network(proxy) for proxy in proxies]
    mapped = [
        f"::ffff:{network.network_address}/{96 + network.prefixlen}" for network in networks if network.version == 4
    ]
    return [*map(str, networks), *mapped]
