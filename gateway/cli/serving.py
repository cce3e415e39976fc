"""Running ASGI programs, and the embedded Redis beside them."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import structlog
from starlette.types import ASGIApp

from gateway.cli.certificates import Certificate
from gateway.cli.connections import Bounds
from gateway.cli.framing import ConnectionLimits
from gateway.cli.open_files import find_room
from gateway.cli.output import fail
from gateway.cli.protocol import BoundedConfig, BoundedProtocol
from gateway.cli.refusals import Refusals
from gateway.cli.server import Server
from gateway.settings import Admin, Metrics, Settings
from gateway.stores.embedded import EmbeddedError, EmbeddedRedis, default_directory

_LOG = structlog.get_logger("imagegate.embedded")
_WATCH_S: Final = 0.2
"""While the embedded server is away, requests are refused."""
_CERTIFICATE_LOOK_S: Final = 1
_KEEP_ALIVE_S: Final = 75
"""Longer than the idle time of the usual proxies in front, so that they never meet a closing connection."""
_HEADS_PART: Final = 8
"""Unfinished heads and pipelined requests may hold this part of `max_memory_bytes`, besides."""
_HEADS_MIN: Final = 16
_KERNEL_UNSENT_BYTES: Final = 256 * 1024
"""Of a response, that the kernel holds beyond what is on its way: it needs no more to send at any speed."""


def server_config(app: ASGIApp | str, drain_timeout_s: float, proxies: Sequence[str] = ()) -> BoundedConfig:
    """Uvicorn as both programs run it: no banner, no access log beside our own line, our bounds on connections.

    `proxies` are believed in what they say of where a request came from.
    """
    config = BoundedConfig(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    config.drain_timeout_s = drain_timeout_s
    config.refusals = Refusals()
    return config


def gateway_config(app: ASGIApp, settings: Settings) -> BoundedConfig:
    """Uvicorn as the settings want it. Raises: SettingsError for a certificate that cannot be used."""
    server = settings.server
    config = server_config(app, server.drain_timeout_s, _as_seen(server.trusted_proxies))
    config.drain_grace_s = server.drain_grace_s
    config.connection_limits = ConnectionLimits(server.head_max_bytes, server.head_timeout_s, server.send_timeout_s)
    room, most = find_room(settings), server.max_connections_per_address
    exempt = tuple(ip_network(proxy) for proxy in server.trusted_proxies)
    head_bytes = max(_HEADS_MIN * server.head_max_bytes, server.max_memory_bytes // _HEADS_PART)
    config.bounds = Bounds(
        room.connections, min(most or max(room.connections // 2, 1), room.connections), head_bytes, exempt
    )
    own = Bounds(room.own_port_connections, max(room.own_port_connections // 2, 1), head_bytes, exempt)
    config.own_bounds = {table.port: own for table in own_ports(settings).values()}
    if settings.metrics.port:
        config.late_ports = frozenset({settings.metrics.port})
    if server.tls:
        certificate = Certificate(server.tls)
        certificate.read()
        certificate.tell_end()
        config.certificate = certificate
        config.ssl_context_factory = certificate.build_context
        config.callback_notify, config.timeout_notify = certificate.keep, _CERTIFICATE_LOOK_S
    return config


def _as_seen(proxies: Sequence[str]) -> list[str]:
    """Networks also as a socket of both versions sees them: IPv4 inside IPv6 (RFC 4291 section 2.5.5.2)."""
    networks = [ip_network(proxy) for proxy in proxies]
    mapped = [
        f"::ffff:{network.network_address}/{96 + network.prefixlen}" for network in networks if network.version == 4
    ]
    return [*map(str, networks), *mapped]


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """The address under which this machine reaches a listener."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def bind(host: str, port: int, hint: str = "", option: str = "--port") -> socket.socket:
    """A listening socket, or the end of the command. `hint` says how to give the `option`."""
    try:
        return listen(host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        fail(f"cannot listen on {host}:{port} ({reason}); choose another with {option} {hint}".rstrip())


def bind_own_ports(settings: Settings, public_port: int) -> list[socket.socket]:
    """Listens where the admin API and the metrics have ports of their own. Every process serves them."""
    listeners = []
    for name, table in own_ports(settings).items():
        if table.port == public_port:
            fail(f"{name}.port: {table.port} is the gateway's own port; choose another, or 0 to share it")
        hint = f"or IMAGEGATE_{name.upper()}__PORT; 0 shares the gateway's own port"
        listeners.append(bind(table.host, table.port, hint, f"`port` in [{name}]"))
    return listeners


def own_ports(settings: Settings) -> dict[str, Admin | Metrics]:
    """The tables that have a port of their own, by name."""
    tables: dict[str, Admin | Metrics] = {"admin": settings.admin, "metrics": settings.metrics}
    return {name: table for name, table in tables.items() if table.port}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises: OSError, OverflowError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it. Without it an answer waits 40 ms between its head and its body (Nagle's algorithm
    # against delayed acknowledgements): event loops set it only on sockets that they make themselves.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Also inherited. The kernel would take up to 4 MB of responses for each client that reads none, and no bound of the
    # process would count them.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_UNSENT_BYTES)
    try:
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def embedded_of(settings: Settings) -> EmbeddedRedis | None:
    """The embedded server that a configuration asks for, not yet started."""
    if settings.redis.url != "embedded":
        return None
    directory = settings.redis.embedded_dir
    return EmbeddedRedis(Path(directory).expanduser().resolve() if directory else data_directory())


def data_directory() -> Path:
    """Where this user's data is kept."""
    return default_directory(os.environ.get("HOME"), os.environ.get("XDG_DATA_HOME"))


def start_embedded(embedded: EmbeddedRedis) -> None:
    try:
        embedded.start()
    except EmbeddedError as error:
        embedded.stop()
        fail(str(error))


class _Watch:
    """Starts the server again when it has died. Each loss is logged once."""

    def __init__(self, embedded: EmbeddedRedis) -> None:
        self._embedded = embedded
        self._is_away = False
        self._is_told = False

    def start(self) -> None:
        try:
            if self._embedded.own() and not self._is_away:
                _LOG.warning(
                    "embedded_redis_died", remedy="it is started again; if it does not come, see its redis.log"
                )
                self._is_away = True
        except (OSError, subprocess.SubprocessError) as error:
            if not self._is_told:
                _LOG.error("embedded_redis_cannot_be_started", detail=str(error))
            self._is_told = True

    def look(self) -> None:
        """Blocks."""
        if self._is_away and self._embedded.answers():
            _LOG.info("embedded_redis_back")
            self._is_away = self._is_told = False


async def watch_embedded(embedded: EmbeddedRedis) -> None:
    """Keep the server of a single process alive; runs until it is cancelled."""
    watch = _Watch(embedded)
    while True:
        await asyncio.sleep(_WATCH_S)
        watch.start()
        await asyncio.to_thread(watch.look)


@contextmanager
def watching(embedded: EmbeddedRedis) -> Iterator[None]:
    """Keep the server of a supervisor alive, which has no event loop."""
    is_over = threading.Event()

    def watch_until_over() -> None:
        watch = _Watch(embedded)
        while not is_over.wait(_WATCH_S):
            watch.start()
            watch.look()

    thread = threading.Thread(target=watch_until_over, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def stop_on_signals(servers: list[Server], stopped: asyncio.Event) -> None:
    """SIGINT and SIGTERM end the servers, in the caller's order; a second one ends them faster."""

    def stop() -> None:
        if stopped.is_set():
            for server in servers:
                server.hurry()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
