"""httpx's transport interface over aiohttp, with an exact error map.

Why not httpx's own pool: it costs six times the CPU and collapses with hundreds of slow calls in flight (of 400
requests a second with 2,000 in flight it answered 15). A call costs 0.11 ms of CPU here, of which aiohttp takes
0.07 and httpx's types the rest (two cores of an EPYC, 32 concurrent calls). httpx's types stay for their
exceptions, and so that any other httpx transport fits here.

Why not the package httpx-aiohttp: it reports refused, unresolvable and closed-without-answer alike as
`ConnectTimeout`, which would make the gateway buy an image twice.
"""

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.payload import Payload
from aiohttp.streams import StreamReader
from yarl import URL

from gateway.generation.transport.addresses import PublicResolver, is_public_name

_BUFFER_BYTES: Final = 8 * 1024
"""aiohttp stops reading while it buffers more than twice as much."""
_READ_BYTES: Final = 32 * 1024
"""Size of a read until the response's reader waits for one, which then may be as large as a piece."""
PIECE_BYTES: Final = 128 * 1024
"""Maximum of one piece of a response."""
READ_AHEAD_BYTES: Final = 2 * _BUFFER_BYTES + _READ_BYTES
"""Maximum of a response that is received before its reader asks for the next piece."""
_SENT_BYTES: Final = 64 * 1024
"""Body bytes per write: TLS copies its input."""
_KEEP_ALIVE_S: Final = 15.0
"""Idle time of a connection. Servers close theirs after 60 s or more, and a call sent into a closing one is lost."""
_AUTOMATIC_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

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

_ERRORS: Final[tuple[tuple[type[BaseException], type[httpx.TransportError]], ...]] = (
    # Most specific first. First block: nothing was sent.
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ServerFingerprintMismatch, httpx.ConnectError),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    # Second block: something may have been sent.
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ClientError, httpx.ReadError),
    (TimeoutError, httpx.ReadTimeout),
    (ValueError, httpx.UnsupportedProtocol),  # an invalid host name
    (OSError, httpx.ReadError),
)
"""Map from aiohttp's exceptions to httpx's."""


def map_error(error: BaseException) -> httpx.TransportError:
    kind = next(to for kind, to in _ERRORS if isinstance(error, kind))
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return kind(type(error).__name__)  # the text holds the URL, which may be signed
    return kind(f"{type(error).__name__}: {error}")


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One `aiohttp.ClientSession`: no cookies, redirects, environment or connection limit.

    `public_only` refuses non-public addresses after name resolution, for untrusted links.
    Timeouts are httpx's: `request.extensions["timeout"]`, seconds, keys connect and read; 0 expires immediately.

    `request.extensions["on_sent"]`, a function without arguments that never fails, is called once, immediately before
    the first byte is written to an open connection. Until then nothing was sent. Not for requests without a body.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, public_only: bool = False) -> None:
        """`context` may be shared by transports: loading the certificates takes 20 ms."""
        self._context = context or ssl.create_default_context()
        self._public_only = public_only
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._context,
            keepalive_timeout=_KEEP_ALIVE_S,
            resolver=PublicResolver() if self._public_only else None,
        )
        received = memoryview(bytearray(PIECE_BYTES - 2 * _BUFFER_BYTES))

        def make_handler() -> ResponseHandler:
            return BoundedHandler(asyncio.get_running_loop(), received)

        connector._factory = make_handler  # type: ignore[assignment] # noqa: SLF001 - there is no public way
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC_HEADERS,
            read_bufsize=_BUFFER_BYTES,
        )
        return self

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: httpx.TransportError, never anything of aiohttp's."""
        if self._session is None:
            raise RuntimeError("the transport is not open")
        if self._public_only and not is_public_name(request.url.host):
            raise httpx.ConnectError("the address is not public")
        limits = request.extensions.get("timeout", {})
        if any(seconds is not None and seconds <= 0 for seconds in limits.values()):
            raise httpx.ConnectTimeout("no time left")  # aiohttp takes 0 for "no limit"
        assert isinstance(request.stream, httpx.SyncByteStream)  # in full, and not joined as by `request.read`
        pieces = tuple(piece for piece in request.stream if piece)
        try:
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[
                    (sys.intern(name.decode("ascii")), value.decode("latin-1")) for name, value in request.headers.raw
                ],
                data=_Content(pieces, request.extensions.get("on_sent")) if pieces else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=limits.get("connect"), sock_read=limits.get("read")),
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise map_error(error) from error
        connection = response.connection
        handler = connection.protocol if connection else None  # none once the whole body has arrived
        assert isinstance(handler, BoundedHandler | None)
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response, handler))


class _Content(Payload):
    """A body in uncopied pieces that reports when it is written; the request head is buffered until then."""

    _autoclose = True  # nothing to close

    def __init__(self, pieces: tuple[bytes, ...], on_sent: Callable[[], None] | None) -> None:
        super().__init__(pieces)
        self._size = sum(len(piece) for piece in pieces)
        self._pieces = pieces
        self._on_sent = on_sent

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        assert isinstance(writer, StreamWriter)
        if writer.transport is None or writer.transport.is_closing():  # aiohttp would write nothing
            raise aiohttp.ClientConnectionResetError("the connection was closed before the request was sent")
        if self._on_sent:
            self._on_sent()
        for piece in self._pieces:
            for start in range(0, len(piece), _SENT_BYTES):
                await writer.write(memoryview(piece)[start : start + _SENT_BYTES])
                await asyncio.sleep(0)


@dataclass(eq=False, slots=True)
class _Body(httpx.AsyncByteStream):
    """The bytes of a response as they arrive; `aclose` returns or closes the connection."""

    response: aiohttp.ClientResponse
    handler: "BoundedHandler | None"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._next():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise map_error(error) from error

    async def _next(self) -> bytes:
        """Returns received data, unmodified; empty at the end."""
        if self.handler is None:
            return await self.response.content.readany()
        self.handler.reads_pieces = True
        try:
            return await self.response.content.readany()
        finally:
            self.handler.reads_pieces = False

    async def aclose(self) -> None:
        self.response.close()


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
    reads_pieces = False

    def __init__(self, loop: asyncio.AbstractEventLoop, received: memoryview) -> None:
        super().__init__(loop)
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.set_protocol(_BoundedReads(self, self._received))
        if limit := getattr(transport, "set_read_buffer_limits", None):
            limit(_READ_BYTES)  # of TLS

    def set_response_params(self, **params: Any) -> None:
        self._interim = self._received_bytes = 0
        self._body = None
        self._piece_max_bytes = _CHUNKED_PIECE_BYTES
        self._held_back = b""
        super().set_response_params(**params)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._body = None  # a reference cycle that only the garbage collector would break

    def data_received(self, data: bytes) -> None:
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
