"""A connection that sends an answer's head and its small body as one piece."""

import asyncio
import weakref
from typing import Final

from gateway.cli.lingering import Lingering, LingeringProtocol

_FULL_BYTES: Final = 64 * 1024
"""So much is sent at once and as it is: joining it would cost more than a system call."""


class Corked:
    """What is written in one turn of the event loop leaves at its end.

    uvicorn writes a head and each part of a body by themselves, and with small ones the way into the kernel is most of
    what they cost. Everything else of a transport goes straight to it.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, protocol: LingeringProtocol
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._protocol = weakref.ref(protocol)  # it holds this transport, and its requests would live on in the cycle
        self._is_lingering = False
        self._parts: list[bytes | bytearray | memoryview] = []
        self._bytes = 0
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes >= _FULL_BYTES:
            self._flush()

    def is_closing(self) -> bool:
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Sends what was written; the second time without regard to what the client is sending."""
        self._flush()
        protocol = self._protocol()
        if protocol is None or self.is_closing() or not protocol.count_discarded():
            self._transport.close()
        else:
            self._is_lingering = True
            Lingering(self._transport, protocol, self._loop)

    def abort(self) -> None:
        self._parts.clear()
        self._transport.abort()

    def _flush(self) -> None:
        parts, size = self._parts, self._bytes
        if not parts:
            return
        self._parts, self._bytes = [], 0
        if self.is_closing():
            return
        if size < _FULL_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)
