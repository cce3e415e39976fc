"""Lingering close: a connection reads and discards what the client still sends until it has read the response.

A socket that is closed with unread bytes is reset, and the client's system may drop the response with it
(RFC 9112 section 9.6).
"""

import asyncio
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


class Lingering(asyncio.Protocol):
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
