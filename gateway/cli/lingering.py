"""The end of a connection whose client is still sending: what comes is discarded until it has had time to read.

A socket that is closed with unread bytes is reset, and the client's system may drop the response with it
(RFC 9112 section 9.6).
"""

import asyncio
from typing import Final, Protocol

BODY_MAX_BYTES: Final = 32 * 1024 * 1024
"""Twice the largest body by default."""
REST_MAX_BYTES: Final = 1024 * 1024
"""Of what is no request that can be served."""
_MAX_S: Final = 30.0
_PAUSE_S: Final = 2.0
"""Without a byte from a client, which has then read the response or gone."""


class LingeringProtocol(Protocol):
    """What a connection's own protocol still hears of."""

    def count_discarded(self) -> int:
        """How many bytes that the client may be sending are discarded."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class Lingering(asyncio.Protocol):
    """Takes the place of a connection's protocol after its last response."""

    def __init__(
        self, transport: asyncio.Transport, protocol: LingeringProtocol, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._ends_s = loop.time() + _MAX_S
        self._bytes = self._seen_bytes = 0
        self._max_bytes = protocol.count_discarded()
        self._protocol = protocol
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign] # it bounds how long this takes
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._timer = loop.call_later(_PAUSE_S, self._look)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(exc)

    def _look(self) -> None:
        if self._bytes == self._seen_bytes or self._loop.time() >= self._ends_s:
            self._transport.close()
            return
        self._seen_bytes = self._bytes
        self._timer = self._loop.call_later(_PAUSE_S, self._look)
