"""httpx's transport interface over aiohttp, with an exact error map.

Why not httpx's own pool: it costs six times the CPU and collapses with hundreds of slow calls in flight (of 400
requests a second with 2,000 in flight it answered 15). A call costs 0.11 ms of CPU here, of which aiohttp takes
0.07 and httpx's types the rest (two cores of an EPYC, 32 concurrent calls). httpx's types stay for their
exceptions, and so that any other httpx transport fits here.

Why not the package httpx-aiohttp: it reports refused, unresolvable and closed-without-answer alike as
`ConnectTimeout`, which would make the gateway buy an image twice.
"""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Self

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload
from yarl import URL

from gateway.generation.transport.addresses import PublicResolver, is_public_name
from gateway.generation.transport.connections import BUFFER_BYTES, PIECE_BYTES, BoundedHandler

_SENT_BYTES: Final = 64 * 1024
"""Body bytes per write: TLS copies its input."""
_KEEP_ALIVE_S: Final = 15.0
"""Idle time of a connection. Servers close theirs after 60 s or more, and a call sent into a closing one is lost."""
_AUTOMATIC_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

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
        received = memoryview(bytearray(PIECE_BYTES - 2 * BUFFER_BYTES))

        def make_handler() -> ResponseHandler:
            return BoundedHandler(asyncio.get_running_loop(), received)

        connector._factory = make_handler  # type: ignore[assignment] # noqa: SLF001 - there is no public way
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC_HEADERS,
            read_bufsize=BUFFER_BYTES,
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
    handler: BoundedHandler | None

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
