"""Limits on open connections: in total, per client address, and the bytes of unfinished heads and pipelined requests.

A connection counts from its TCP accept to its close, TLS handshake included. It is idle while no request is in flight:
during the handshake, before its first head is complete, and between requests. At a bound the connection that has been
idle longest is closed. If none is idle, a connection is closed whose client reads its response too slowly, and if there
is none either, the new connection is refused. Invariant: no connection is closed for a new one while the gateway works
on its request, or while its client reads the response.
"""

import fcntl
import socket
import sys
import termios
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from gateway.api.auth_throttle import network_of

_SMALL_BYTES: Final = 1024
"""Smaller heads are not counted: every connection costs more, and common requests never leave more unfinished."""
_FIELD_BYTES: Final = 128
"""Memory of one header field beside its characters."""
_EXAMINED_MAX: Final = 16
"""Idle connections, and as many others with an unread response, that are examined for one new connection."""
_UNREAD_S: Final = 5.0
"""A response counts as unread if its client read it too slowly for this long."""
_READ_MIN_BYTES_PER_S: Final = 2048
"""The slowest mobile networks carry more (GPRS: about 4 KiB/s)."""


class Bound(StrEnum):
    """The bound at which a connection was rejected or closed; a metric label."""

    PROCESS = "process"
    ADDRESS = "address"
    HEADS = "heads"


class Action(StrEnum):
    """The action at a bound; a metric label."""

    REFUSED = "refused"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one listener in one process."""

    in_all: int = sys.maxsize
    per_address: int = sys.maxsize
    """IPv6 addresses count by /64."""
    head_bytes: int = sys.maxsize
    """Of all unfinished heads and pipelined requests together."""
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks of proxies, which carry many clients: not bounded by address."""


class Level(Protocol):
    """A gauge of the open connections."""

    def inc(self) -> None: ...
    def dec(self) -> None: ...


class Transport(Protocol):
    """The part of a transport that shows whether a response is unsent."""

    def get_write_buffer_size(self) -> int: ...


@dataclass(slots=True)
class _Waiting:
    """Connections that wait for their clients, the one that waits longest first."""

    idle: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)
    unread: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)
    """Those whose write buffer is full, idle or not."""


@dataclass(slots=True)
class _Address:
    count: int = 0
    waiting: _Waiting = field(default_factory=_Waiting)


class Connections:
    """The open connections of one listener, oldest idle first."""

    def __init__(
        self,
        bounds: Bounds,
        note: Callable[[Bound, Action], None] = lambda _bound, _action: None,
        level: Level | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = bounds
        self._note = note
        self._level = level
        self._monotonic = monotonic
        self._count = 0
        self._addresses: dict[str, _Address] = {}
        self._waiting = _Waiting()
        self._heads: OrderedDict[Connection, None] = OrderedDict()
        """Connections with an unfinished head or pipelined requests, the one that has them longest first."""
        self._head_bytes = 0

    def admit(self, client: socket.socket, address: str) -> "Connection | None":
        """Counts an accepted connection, or closes it and returns None."""
        network = network_of(address)
        place = self._addresses.get(network)
        if place and place.count >= self._bounds.per_address and not self._is_exempt(address):
            full = None if self._close_one(place.waiting, Bound.ADDRESS) else Bound.ADDRESS
        else:
            has_capacity = self._count < self._bounds.in_all or self._close_one(self._waiting, Bound.PROCESS)
            full = None if has_capacity else Bound.PROCESS
        if full:
            client.close()
            self._note(full, Action.REFUSED)
            return None
        connection = Connection(self, network, client)
        self._addresses.setdefault(network, _Address()).count += 1
        self._count += 1
        if self._level:
            self._level.inc()
        self.note_idle(connection)
        return connection

    def note_idle(self, connection: "Connection") -> None:
        connection.begin_unread(self._monotonic())
        for waiting in self._waiting_of(connection):
            waiting.idle[connection] = None

    def note_in_flight(self, connection: "Connection") -> None:
        for waiting in self._waiting_of(connection):
            waiting.idle.pop(connection, None)

    def note_unread(self, connection: "Connection") -> None:
        connection.begin_unread(self._monotonic())
        for waiting in self._waiting_of(connection):
            waiting.unread[connection] = None

    def note_read(self, connection: "Connection") -> None:
        for waiting in self._waiting_of(connection):
            waiting.unread.pop(connection, None)

    def note_head(self, connection: "Connection", head_bytes: int) -> None:
        """Counts what the connection holds for its client; beyond the bound the oldest such are closed."""
        self._head_bytes += head_bytes - connection.head_bytes
        connection.head_bytes = head_bytes
        if head_bytes:
            self._heads.setdefault(connection)
        else:
            self._heads.pop(connection, None)
        while self._head_bytes > self._bounds.head_bytes:
            next(iter(self._heads)).cut()
            self._note(Bound.HEADS, Action.CLOSED)

    def forget(self, connection: "Connection") -> None:
        self.note_head(connection, 0)
        self.note_in_flight(connection)
        self.note_read(connection)
        self._count -= 1
        place = self._addresses[connection.network]
        place.count -= 1
        if not place.count:
            del self._addresses[connection.network]
        if self._level:
            self._level.dec()

    def _waiting_of(self, connection: "Connection") -> tuple[_Waiting, _Waiting]:
        return self._waiting, self._addresses[connection.network].waiting

    def _close_one(self, waiting: _Waiting, bound: Bound) -> bool:
        """Makes room, if any connection waits for its client."""
        connection = self._find_closable(waiting.idle, is_idle=True) or self._find_closable(
            waiting.unread, is_idle=False
        )
        if connection:
            connection.cut()
            self._note(bound, Action.CLOSED)
        return connection is not None

    def _find_closable(self, waiting: "OrderedDict[Connection, None]", *, is_idle: bool) -> "Connection | None":
        now_s = self._monotonic()
        for _ in range(min(_EXAMINED_MAX, len(waiting))):
            oldest = next(iter(waiting))
            if (is_idle and not oldest.unsent_bytes) or oldest.is_unread(now_s):
                return oldest
            waiting.move_to_end(oldest)
        return None

    def _is_exempt(self, address: str) -> bool:
        parsed = ip_address(address)
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._bounds.exempt)


class Connection:
    """One accepted connection, updated by its protocol."""

    __slots__ = (
        "_connections",
        "_is_open",
        "_measured_bytes",
        "_measured_s",
        "_socket",
        "head_bytes",
        "network",
        "transport",
    )

    def __init__(self, connections: Connections, network: str, client: socket.socket) -> None:
        self._connections = connections
        self._socket = client
        self._is_open = True
        self._measured_s, self._measured_bytes = 0.0, 0
        """When the bytes that the client has still to receive were counted last, monotonic, and their number."""
        self.network = network
        self.head_bytes = 0
        self.transport: Transport | None = None
        """None during the TLS handshake."""

    def begin_request(self) -> None:
        if self._is_open:
            self._connections.note_in_flight(self)

    def end_request(self) -> None:
        if self._is_open:
            self._connections.note_idle(self)

    def note_unread(self, *, is_unread: bool) -> None:
        """The write buffer has become full, or has room again."""
        if self._is_open:
            (self._connections.note_unread if is_unread else self._connections.note_read)(self)

    def hold(self, held_bytes: int, fields: int = 0) -> None:
        """Counts the memory of requests that wait for the client: unfinished heads, and requests that it pipelined.

        `fields`: how many header fields they have.
        """
        memory_bytes = held_bytes + fields * _FIELD_BYTES
        counted = memory_bytes if memory_bytes >= _SMALL_BYTES else 0
        if self._is_open and counted != self.head_bytes:
            self._connections.note_head(self, counted)

    def close(self) -> None:
        """Stops counting the connection. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._connections.forget(self)

    def cut(self) -> None:
        """Ends the TCP connection, during a handshake too; its transport then closes without waiting for the client."""
        self.close()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client closed it

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport else 0

    def begin_unread(self, now_s: float) -> None:
        self._measured_s, self._measured_bytes = now_s, self._measure() if self.unsent_bytes else 0

    def is_unread(self, now_s: float) -> bool:
        """Returns whether the client has read too slowly since the last measurement. If not, measures anew."""
        passed_s = now_s - self._measured_s
        if not self.unsent_bytes or passed_s < _UNREAD_S:
            return False
        if self._measured_bytes - self._measure() < _READ_MIN_BYTES_PER_S * passed_s:
            return True
        self.begin_unread(now_s)
        return False

    def _measure(self) -> int:
        """Counts the bytes that the client has still to receive.

        The kernel asks for more only after a third of its megabytes was received, so its buffer counts too (Linux).
        """
        try:
            queued = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ of tcp(7)
        except OSError:
            return self.unsent_bytes
        return self.unsent_bytes + int.from_bytes(queued, sys.byteorder)
