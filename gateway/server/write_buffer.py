"""Coalesces the small writes of a response.

uvicorn writes the head and each part of a body separately. Joined they take one system call and one TCP segment, which
saves a sixth of the CPU of HTTP for a small response (33 instead of 40 microseconds).
"""

import asyncio
import weakref
from typing import Final

from gateway.server.lingering import Lingering, LingeringProtocol

_FULL_BYTES: Final = 64 * 1024
"""Larger writes are sent immediately: copying them would cost more than a system call."""


class CoalescingTransport:
    """A transport that sends what is written in one event-loop iteration at its end, and whose `close` lingers."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, protocol: LingeringProtocol
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._protocol = weakref.ref(protocol)  # a strong reference would keep finished requests alive in a cycle
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
        """Flushes and closes, lingering if the client may still be sending. A second call does not linger."""
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
        self._parts, self._bytes = [], 0
        if not parts or self.is_closing():
            return
        if size < _FULL_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)
