"""Lingering close: a connection reads and discards what the client still sends until it has read the response.

A socket that is closed with unread bytes is reset, and the client's system may drop the response with it
(RFC 9112 section 9.6).
"""

import asyncio
import weakref
from typing import Final, Protocol

BODY_MAX_BYTES: Final = 32 * 1024 * 1024
"""Limit on a discarded request body: twice the largest body by default."""
REST_MAX_BYTES: Final = 1024 * 1024
"""Limit on what follows a rejected request."""
_MAX_S: Final = 30.0
_IDLE_S: Final = 2.0
"""A client that sends nothing for this long has read the response or disconnected."""


class LingeringProtocol(Protocol):
    """The callbacks of a connection's own protocol that stay in use."""

    def count_discarded(self) -> int:
        """Number of bytes that the client may be sending and that are discarded."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class LingeringTransport:
    """A transport whose `close` lingers if the client may still be sending."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, protocol: LingeringProtocol
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._protocol = weakref.ref(protocol)  # a strong reference would keep finished requests alive in a cycle
        self._is_lingering = False
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_lingering:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Sends what was written and closes. A second call closes without lingering."""
        protocol = self._protocol()
        if protocol is None or self.is_closing() or not protocol.count_discarded():
            self._transport.close()
        else:
            self._is_lingering = True
            _Discard(self._transport, protocol, self._loop)


class _Discard(asyncio.Protocol):
    """Replaces a connection's protocol after its last response."""

    def __init__(
        self, transport: asyncio.Transport, protocol: LingeringProtocol, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._ends_s = loop.time() + _MAX_S
        self._bytes = self._seen_bytes = 0
        self._max_bytes = protocol.count_discarded()
        self._protocol = protocol
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign] # its write time-out applies here too
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._timer = loop.call_later(_IDLE_S, self._poll)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(exc)

    def _poll(self) -> None:
        if self._bytes == self._seen_bytes or self._loop.time() >= self._ends_s:
            self._transport.close()
            return
        self._seen_bytes = self._bytes
        self._timer = self._loop.call_later(_IDLE_S, self._poll)
