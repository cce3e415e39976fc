"""Accepts connections within their bounds.

The event loop's own server knows no address before a TLS handshake is complete, and cannot reject a connection.
A connection counts from its TCP accept to its close, TLS handshake included. It is idle while no request is in flight:
during the handshake, before its first head is complete, and between requests. At a bound the connection that has been
idle longest is closed. If none is idle, a connection is closed whose client reads its response too slowly, and if there
is none either, the new connection is refused. Invariant: no connection is closed for a new one while the gateway works
on its request, or while its client reads the response.
"""

import asyncio
import fcntl
import socket
import sys
import termios
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Final, Literal

import structlog
from prometheus_client import Gauge

from gateway.api.auth_throttle import network_of
from gateway.server.config import Bounds, ServerConfig

_LOG = structlog.get_logger("imagegate.connections")
_SMALL_BYTES: Final = 1024
"""Smaller heads are not counted: every connection costs more, and common requests never leave more unfinished."""
_EXAMINED_MAX: Final = 16
"""Idle connections, and as many others with an unread response, that are examined for one new connection."""
_UNREAD_S: Final = 5.0
"""A response counts as unread if its client read it too slowly for this long."""
_READ_MIN_BYTES_PER_S: Final = 2048
"""The slowest mobile networks carry more (GPRS: about 4 KiB/s)."""
_ACCEPTS_MAX: Final = 16
"""Per event-loop iteration; other processes that share the socket accept the rest."""
_EXHAUSTED: Final = "connections wait; allow more open files (ulimit -Hn, LimitNOFILE) or memory"
_RETRY_S: Final = 0.1
"""Delay before accepting again when the process has no file descriptor or memory left."""
_LOG_EVERY_S: Final = 60.0
"""At the limit connections are accepted one by one as others end: a line for each would fill the log."""


Bound = Literal["process", "address", "heads"]
"""The bound at which a connection was rejected or closed; a metric label."""
Action = Literal["refused", "closed"]
"""The action at a bound; a metric label."""


@dataclass(slots=True)
class _Group:
    """The connections of a listener, or those of one address. Those that wait longest for their client come first."""

    count: int = 0
    idle: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)
    unread: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)
    """Those whose write buffer is full, idle or not."""


class Connections:
    """The open connections of one listener."""

    def __init__(
        self,
        bounds: Bounds,
        note: Callable[[Bound, Action], None] = lambda _bound, _action: None,
        level: Gauge | None = None,
    ) -> None:
        self._bounds = bounds
        self._note = note
        self.level = level
        self.everything = _Group()
        self.addresses: dict[str, _Group] = {}
        self._heads: OrderedDict[Connection, None] = OrderedDict()
        """Connections with an unfinished head or pipelined requests, the one that has them longest first."""
        self._head_bytes = 0

    def admit(self, client: socket.socket, address: str) -> "Connection | None":
        """Counts an accepted connection, or closes it and returns None."""
        network = network_of(address)
        own = self.addresses.get(network) or _Group()
        full: Bound | None = None
        is_proxy = bool(self._bounds.proxies) and self._is_proxy(address)
        if own.count >= self._bounds.per_address and not is_proxy:
            full = None if self._close_one(own, "address") else "address"
        elif self.everything.count >= self._bounds.in_all:
            full = None if self._close_one(self.everything, "process") else "process"
        if full:
            client.close()
            self._note(full, "refused")
            return None
        self.addresses[network] = own
        groups = (self.everything, own)
        connection = Connection(self, client, network, groups, is_proxy, _measured_s=time.monotonic())
        for group in connection.groups:
            group.count += 1
            group.idle[connection] = None
        if self.level:
            self.level.inc()
        return connection

    def hold(self, connection: "Connection", head_bytes: int) -> None:
        """Counts what a connection holds for its client; beyond the bound the oldest such are closed."""
        self._head_bytes += head_bytes - connection.head_bytes
        connection.head_bytes = head_bytes
        if head_bytes:
            self._heads.setdefault(connection)
        else:
            self._heads.pop(connection, None)
        while self._head_bytes > self._bounds.head_bytes:
            next(iter(self._heads)).cut()
            self._note("heads", "closed")

    def _close_one(self, group: _Group, bound: Bound) -> bool:
        """Makes room, if any connection waits for its client."""
        now_s = time.monotonic()
        for waiting in (group.idle, group.unread):
            for _ in range(min(_EXAMINED_MAX, len(waiting))):
                oldest = next(iter(waiting))
                if (waiting is group.idle and not oldest.count_unread()) or oldest.is_unread(now_s):
                    oldest.cut()
                    self._note(bound, "closed")
                    return True
                waiting.move_to_end(oldest)
        return False

    def _is_proxy(self, address: str) -> bool:
        parsed = ip_address(address)
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._bounds.proxies)


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection, updated by its protocol."""

    _connections: Connections
    _socket: socket.socket
    _network: str
    groups: tuple[_Group, _Group]
    is_proxy: bool = False
    """The client is one of `[server] trusted_proxies`."""
    transport: asyncio.Transport | None = None
    """None during the TLS handshake."""
    head_bytes: int = 0
    _is_open: bool = True
    _measured_s: float = 0.0
    """When the bytes that the client has still to receive were counted last, monotonic, and their number."""
    _measured_bytes: int = 0

    def update(self, *, is_idle: bool, is_unread: bool, held_bytes: int = 0) -> None:
        """Notes if the connection waits for its client.

        `is_unread`: its write buffer is full. `held_bytes`: the memory of requests that wait for the client: unfinished
        heads, and requests that it pipelined.
        """
        if not self._is_open:
            return
        everything = self.groups[0]
        if (is_idle and self not in everything.idle) or (is_unread and self not in everything.unread):
            self._measured_s, self._measured_bytes = time.monotonic(), self.count_unread()
        for group in self.groups:
            for waiting, is_waiting in ((group.idle, is_idle), (group.unread, is_unread)):
                if is_waiting:
                    waiting.setdefault(self)
                else:
                    waiting.pop(self, None)
        counted_bytes = held_bytes if held_bytes >= _SMALL_BYTES else 0
        if counted_bytes != self.head_bytes:
            self._connections.hold(self, counted_bytes)

    def close(self) -> None:
        """Stops counting the connection. Idempotent."""
        if not self._is_open:
            return
        self.update(is_idle=False, is_unread=False)
        self._is_open, self.transport = False, None  # without the transport, nothing is in a cycle
        for group in self.groups:
            group.count -= 1
        if not self.groups[1].count:
            del self._connections.addresses[self._network]
        if self._connections.level:
            self._connections.level.dec()

    def cut(self) -> None:
        """Ends the TCP connection, during a handshake too; its transport then closes without waiting for the client."""
        self.close()
        with suppress(OSError):  # the client closed it
            self._socket.shutdown(socket.SHUT_RDWR)

    def is_unread(self, now_s: float) -> bool:
        """Returns whether the client has read too slowly since the last measurement. If not, measures anew."""
        unread_bytes, passed_s = self.count_unread(), now_s - self._measured_s
        if not unread_bytes or passed_s < _UNREAD_S:
            return False
        if self._measured_bytes - unread_bytes < _READ_MIN_BYTES_PER_S * passed_s:
            return True
        self._measured_s, self._measured_bytes = now_s, unread_bytes
        return False

    def count_unread(self) -> int:
        """Counts the bytes that the client has still to receive; 0 if none of them are in this process.

        The kernel asks for more only after a third of its megabytes was received, so its buffer counts too (Linux).
        """
        unsent_bytes = self.transport.get_write_buffer_size() if self.transport else 0
        if unsent_bytes:
            with suppress(OSError):
                queued = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ of tcp(7)
                unsent_bytes += int.from_bytes(queued, sys.byteorder)
        return unsent_bytes


class Listener:
    """One listening socket and its connections that are being opened."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        make_protocol: Callable[[Connection], asyncio.BaseProtocol],
        config: ServerConfig,
    ) -> None:
        self._socket = listening
        self._connections = connections
        self._make_protocol = make_protocol
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._logged_s = -_LOG_EVERY_S
        self._retry: asyncio.TimerHandle | None = None
        self.port: int = listening.getsockname()[1]

    def start(self) -> None:
        self._socket.setblocking(False)
        self._socket.listen(self._config.backlog)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                client, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # the socket stays ready, so retrying immediately would spin
                if self._loop.time() >= self._logged_s + _LOG_EVERY_S:
                    _LOG.error("accept_failed", port=self.port, detail=error.strerror, hint=_EXHAUSTED)
                    self._logged_s = self._loop.time()
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(_RETRY_S, self._loop.add_reader, self._socket, self._accept)
                return
            if connection := self._connections.admit(client, address[0]):
                opening = self._loop.create_task(self._open(client, connection))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket, connection: Connection) -> None:
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(partial(self._make_protocol, connection), client)
        except OSError:  # a disconnected client
            connection.close()
            client.close()
        except BaseException:
            connection.close()
            raise
