"""Bounds on open connections: in total, per client address, and on the bytes of their unfinished heads.

A connection counts from its TCP accept to its close, TLS handshake included. It is idle while no request is in flight:
during the handshake, before its first head is complete, and between requests. At a bound the connection that has been
idle longest is closed; if none is idle, the new one is rejected. Invariant: a request that was received completely is
never cut off.
"""

import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from gateway.web.guesses import network_of

_SMALL_BYTES: Final = 1024
"""Smaller heads are not counted: every connection costs more, and common requests never leave more unfinished."""
_FIELD_BYTES: Final = 128
"""Memory of one header field in addition to its characters."""
_UNSENT_SKIPPED_MAX: Final = 16
"""Limit on the idle connections with an unread response that one new connection skips."""


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
    """Total of all unfinished heads."""
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
class _Address:
    count: int = 0
    idle: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)


class Connections:
    """The open connections of one listener, oldest idle first."""

    def __init__(
        self,
        bounds: Bounds,
        note: Callable[[Bound, Action], None] = lambda _bound, _action: None,
        level: Level | None = None,
    ) -> None:
        self._bounds = bounds
        self._note = note
        self._level = level
        self._count = 0
        self._addresses: dict[str, _Address] = {}
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._heads: OrderedDict[Connection, None] = OrderedDict()
        """Connections with an unfinished head, the longest unfinished first."""
        self._head_bytes = 0

    def admit(self, client: socket.socket, address: str) -> "Connection | None":
        """Counts an accepted connection, or closes it and returns None."""
        network = network_of(address)
        place = self._addresses.get(network)
        if place and place.count >= self._bounds.per_address and not self._is_exempt(address):
            full = None if self._close_idle(place.idle, Bound.ADDRESS) else Bound.ADDRESS
        else:
            has_room = self._count < self._bounds.in_all or self._close_idle(self._idle, Bound.PROCESS)
            full = None if has_room else Bound.PROCESS
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
        self._idle[connection] = None
        self._addresses[connection.network].idle[connection] = None

    def note_in_flight(self, connection: "Connection") -> None:
        self._idle.pop(connection, None)
        self._addresses[connection.network].idle.pop(connection, None)

    def note_head(self, connection: "Connection", head_bytes: int) -> None:
        """Counts the bytes of an unfinished head; beyond the bound the oldest such connections are closed."""
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
        self._count -= 1
        place = self._addresses[connection.network]
        place.count -= 1
        if not place.count:
            del self._addresses[connection.network]
        if self._level:
            self._level.dec()

    def _close_idle(self, idle: "OrderedDict[Connection, None]", bound: Bound) -> bool:
        """Closes the longest idle connection, if any. A response that is still being read is not cut off."""
        for _ in range(min(_UNSENT_SKIPPED_MAX, len(idle))):
            oldest = next(iter(idle))
            if not oldest.has_unsent():
                oldest.cut()
                self._note(bound, Action.CLOSED)
                return True
            idle.move_to_end(oldest)
        return False

    def _is_exempt(self, address: str) -> bool:
        found = ip_address(address)
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._bounds.exempt)


class Connection:
    """One accepted connection, updated by its protocol."""

    __slots__ = ("_connections", "_is_open", "_socket", "head_bytes", "network", "transport")

    def __init__(self, connections: Connections, network: str, client: socket.socket) -> None:
        self._connections = connections
        self._socket = client
        self._is_open = True
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

    def hold(self, head_bytes: int, fields: int = 0) -> None:
        """Counts the memory of an unfinished head, from its bytes and the number of its complete fields."""
        memory_bytes = head_bytes + fields * _FIELD_BYTES
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

    def has_unsent(self) -> bool:
        return self.transport is not None and self.transport.get_write_buffer_size() > 0
