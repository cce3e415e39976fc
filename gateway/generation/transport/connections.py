"""Connections to upstreams, which receive and parse no more than is bounded."""

import asyncio
import re
import socket
import struct
import sys
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

BUFFER_BYTES: Final = 8 * 1024
"""aiohttp stops reading while it buffers more than twice as much."""
_READ_BYTES: Final = 32 * 1024
"""Size of a read until the response's reader waits for one, which then may be as large as a piece."""
PIECE_BYTES: Final = 128 * 1024
"""Maximum of one piece of a response."""
READ_AHEAD_BYTES: Final = 2 * BUFFER_BYTES + _READ_BYTES
"""Maximum of a response that is received before its reader asks for the next piece."""
_INTERIM_MAX: Final = 10
"""Servers send one or two (100, 103)."""
_HEAD_BYTES_MAX: Final = 64 * 1024
"""Interim responses and the final head together; heads of providers and object stores have at most 2 KiB."""
_FRAMING_BYTES_MAX: Final = _HEAD_BYTES_MAX + 64 * 1024
"""Limit on bytes outside the body, besides a share of it: 8,000 chunks of any size."""
_FRAMING_PART: Final = 64
"""Share of a body that may be framing: chunks of 450 bytes. Providers and proxies send kilobytes. A chunk costs 2 us of
CPU whatever its size, so a body of 60-byte chunks costs 50 times as much as in one piece.
"""
_PIECE_BYTES: Final = 1024
"""Minimum part of a body that is parsed in one step, then up to the next blank line, which every response has."""
_CHUNKED_PIECE_BYTES: Final = 64 * 1024
"""Maximum part of a chunked read that is parsed before the framing is checked."""
_BLANK_LINE: Final = re.compile(rb"\n\r?\n[\r\n]*")
_LINE_ENDS: Final = re.compile(rb"[\r\n]+")


_TLS_ALERT: Final = b"\x15\x03"
"""The first bytes that a TLS server sends to a client that does not speak TLS."""
_ANNOUNCED: Final = re.compile(r"\btimeout\s*=\s*([0-9]{1,6})\b", re.IGNORECASE)
_ANNOUNCED_MARGIN_S: Final = 1.0
"""Subtracted from an announced idle time, for the way to the server."""
_ESTABLISHED: Final = 1
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_TCP_INFO_BYTES: Final = 128
_ACKED_AT: Final = 120
"""Position of `tcpi_bytes_acked` in Linux's `struct tcp_info`; the state is its first byte (linux/tcp.h)."""


class UnreadRequestError(aiohttp.ServerDisconnectedError):
    """The server closed the connection before a byte of the request had reached it."""


class TlsPortError(aiohttp.ClientError):
    """The server expects TLS, and did not understand the request."""


class _BoundedReads(asyncio.BufferedProtocol):
    """Passes on what a connection receives, in reads of bounded size. Event loops read 256 KiB into other protocols."""

    def __init__(self, handler: "BoundedHandler", received: memoryview) -> None:
        """`received` may be shared: it is copied before the event loop reads again."""
        self._handler, self._received = handler, received
        self.connection_lost, self.eof_received = handler.connection_lost, handler.eof_received  # type: ignore[method-assign]
        self.pause_writing, self.resume_writing = handler.pause_writing, handler.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio
        return self._received if self._handler.reads_pieces else self._received[:_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._handler.data_received(bytes(self._received[:nbytes]))


class BoundedHandler(ResponseHandler):
    """Closes the connection on responses that are mostly framing, and on bytes that belong to no request.

    aiohttp parses unlimited interim responses (1xx), a whole read of 256 KiB in one event-loop iteration. It also
    stores a response that arrives on an idle connection, and would return it for the next request.
    """

    _interim = _received_bytes = 0
    _body: StreamReader | None = None
    _piece_max_bytes = _CHUNKED_PIECE_BYTES
    _held_back = b""
    _idle_max_s = float("inf")
    _received_at = 0.0
    _acked_bytes: int | None = None
    _socket: socket.socket | None = None
    reads_pieces = False

    def __init__(self, loop: asyncio.AbstractEventLoop, received: memoryview) -> None:
        super().__init__(loop)
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        transport.set_protocol(_BoundedReads(self, self._received))
        if limit := getattr(transport, "set_read_buffer_limits", None):
            limit(_READ_BYTES)  # of TLS

    def set_response_params(self, **params: Any) -> None:
        self._interim = self._received_bytes = 0
        self._body = None
        self._piece_max_bytes = _CHUNKED_PIECE_BYTES
        self._held_back = b""
        self._acked_bytes = self._tcp_status()[1]
        super().set_response_params(**params)

    def is_connected(self) -> bool:
        """Returns False also if the server closes or has closed the connection; aiohttp asks before it reuses one."""
        is_idle = self._loop.time() - self._received_at >= self._idle_max_s
        return super().is_connected() and not is_idle and self._tcp_status()[0] in {_ESTABLISHED, None}

    def connection_lost(self, exc: BaseException | None) -> None:
        # A close that the server sent after it had received a byte would have acknowledged it. A reset need not.
        is_silent_close = isinstance(exc, BrokenPipeError | None) and self._body is None and not self._received_bytes
        if is_silent_close and self._acked_bytes is not None and self._tcp_status()[1] == self._acked_bytes:
            super().set_exception(UnreadRequestError())
        super().connection_lost(exc)
        self._body = None  # a reference cycle that only the garbage collector would break

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Leaves the verdict on a write into a closing connection to `connection_lost`, which knows the cause."""
        transport = None if self._connection_lost_called else self.transport
        if isinstance(exc, aiohttp.ClientOSError) and transport is not None and transport.is_closing():
            transport.abort()
        else:
            super().set_exception(exc, *cause)

    def _tcp_status(self) -> tuple[int | None, int | None]:
        """Returns the state of the TCP connection and the bytes that the server acknowledged; None if unknown."""
        if self._socket is None or _TCP_INFO is None:
            return None, None
        try:
            status = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None, None
        is_complete = len(status) == _TCP_INFO_BYTES and sys.platform == "linux"
        return (status[0], struct.unpack_from("=Q", status, _ACKED_AT)[0]) if is_complete else (None, None)

    def data_received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        if self._body is None and not self._received_bytes and data.startswith(_TLS_ALERT):
            self.set_exception(TlsPortError())
            self._close()
            return
        if not data:  # reading resumes: aiohttp first parses its own buffer
            super().data_received(data)
            self._check_framing()
        data, self._held_back = self._held_back + data, b""
        at = 0
        while at < len(data):
            if self._body is not None and self._body.is_eof():  # the bytes belong to no request
                self._close()
            if self.transport is None or self.transport.is_closing():
                return
            if self._reading_paused:
                self._held_back = data[at:]
                return
            # A head is parsed alone: an error behind its body would discard both. A read may begin at any of its bytes.
            # A body rarely has a blank line and is parsed as read.
            start, end = at if self._body is None else at + _PIECE_BYTES, len(data)
            blank = _LINE_ENDS.match(data, at) if self._body is None else None
            if blank is None and data.find(b"\n", start) >= 0:  # 30 times as fast as the pattern
                blank = _BLANK_LINE.search(data, start)
            if blank:
                end = blank.end()
            end = min(end, at + self._piece_max_bytes)
            self._received_bytes += end - at
            super().data_received(data[at:end])
            self._check_framing()
            at = end

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, body = data
        if 100 <= message.code < 200 and message.code != 101:
            self._interim += 1
        elif self._body is None and self._interim <= _INTERIM_MAX:
            self._body = body
            announced = _ANNOUNCED.search(message.headers.get("Keep-Alive", ""))
            self._idle_max_s = int(announced[1]) - _ANNOUNCED_MARGIN_S if announced else float("inf")
            if not message.chunked:
                self._piece_max_bytes = sys.maxsize
            super().feed_data(data, size)
        else:  # after the response of the request
            self._close()

    def _check_framing(self) -> None:
        if self.exception() and self._body is not None and not self._body.is_eof():  # aiohttp would let its reader wait
            self._body.set_exception(aiohttp.ClientPayloadError("the response is no HTTP"))
        if self._reading_paused:  # a part of the received data is not parsed yet
            return
        if self._body is None:
            is_excessive = self._interim > _INTERIM_MAX or self._received_bytes > _HEAD_BYTES_MAX
        else:
            body_bytes = self._body.total_bytes
            is_excessive = self._received_bytes - body_bytes > _FRAMING_BYTES_MAX + body_bytes // _FRAMING_PART
        if is_excessive:
            reader: BoundedHandler | StreamReader = self if self._body is None else self._body
            reader.set_exception(aiohttp.ClientPayloadError("the response is mostly framing"))
            self._close()

    def _close(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()
