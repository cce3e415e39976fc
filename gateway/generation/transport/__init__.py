"""httpx's transport interface over aiohttp, with an exact error map.

Why not httpx's own pool: it costs six times the CPU and collapses with hundreds of slow calls in flight (of 400
requests a second with 2,000 in flight it answered 15). A call costs 0.11 ms of CPU here, of which aiohttp takes
0.07 and httpx's types the rest (two cores of an EPYC, 32 concurrent calls). httpx's types stay for their
exceptions, and so that any other httpx transport fits here.

Why not the package httpx-aiohttp: it reports refused, unresolvable and closed-without-answer alike as
`ConnectTimeout`, which would make the gateway buy an image twice.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from sys import intern
from types import TracebackType
from typing import Final, Self

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload
from yarl import URL

from gateway.generation.transport.addresses import is_public_address, is_public_name
from gateway.generation.transport.framing import BoundedHandler

_CHUNK_BYTES: Final = 256 * 1024
_SENT_BYTES: Final = 64 * 1024
"""Body bytes per write: TLS copies its input."""
_KEEP_ALIVE_S: Final = 15.0
"""Idle time of a connection. Servers close theirs after 60 s or more: a call sent into a closing connection is lost,

and is never resent.
"""
_AUTOMATIC_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

_ERRORS: Final[tuple[tuple[type[BaseException], type[httpx.TransportError]], ...]] = (
    # Most specific first. First block: nothing was sent.
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientConnectorCertificateError, httpx.ConnectError),
    (aiohttp.ServerFingerprintMismatch, httpx.ConnectError),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    # Second block: something may have been sent.
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ClientConnectionError, httpx.ReadError),
    (aiohttp.ClientError, httpx.ReadError),
    (TimeoutError, httpx.ReadTimeout),
    (ValueError, httpx.UnsupportedProtocol),  # an invalid host name
    (OSError, httpx.ReadError),
)
"""Map from aiohttp's exceptions to httpx's."""


def map_error(error: BaseException) -> httpx.TransportError:
    """Returns the httpx exception equivalent to aiohttp's."""
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
            resolver=_PublicResolver() if self._public_only else None,
        )
        handler: type[ResponseHandler] = BoundedHandler  # for mypy: partial is invariant
        connector._factory = partial(handler, loop=asyncio.get_running_loop())  # noqa: SLF001 - there is no public way
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC_HEADERS,
            read_bufsize=_CHUNK_BYTES,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

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
        try:
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[
                    (intern(name.decode("ascii")), value.decode("latin-1")) for name, value in request.headers.raw
                ],
                data=_open_body(request),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=limits.get("connect"), sock_read=limits.get("read")),
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise map_error(error) from error
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))


def _open_body(request: httpx.Request) -> "_Content | None":
    assert isinstance(request.stream, httpx.SyncByteStream)  # in full, and not joined as by `request.read`
    pieces = tuple(piece for piece in request.stream if piece)
    return _Content(pieces, request.extensions.get("on_sent")) if pieces else None


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
        await self.write_with_length(writer, self._size)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - it is the size
    ) -> None:
        assert isinstance(writer, StreamWriter)
        if writer.transport is None or writer.transport.is_closing():  # aiohttp would write nothing
            raise aiohttp.ClientConnectionResetError("the connection was closed before the request was sent")
        if self._on_sent:
            self._on_sent()
        for piece in self._pieces:
            for start in range(0, len(piece), _SENT_BYTES):
                await writer.write(memoryview(piece)[start : start + _SENT_BYTES])
                await asyncio.sleep(0)


class _Body(httpx.AsyncByteStream):
    """The bytes of a response as they arrive; `aclose` returns or closes the connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():  # received data, unmodified
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise map_error(error) from error

    async def aclose(self) -> None:
        self._response.close()


class _PublicResolver(AbstractResolver):
    """Name resolution that yields public addresses only, so that a name cannot be redirected to internal ones later."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"{host[:80]} is not a host name") from error
        public = [(kind, address) for kind, _, _, _, address in found if is_public_address(str(address[0]))]
        if not public:
            raise OSError(f"{host} has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in public
        ]

    async def close(self) -> None:
        """Nothing to close."""
