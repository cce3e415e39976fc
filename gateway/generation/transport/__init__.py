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
from collections.abc import AsyncIterator, Callable, Mapping
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
from gateway.generation.transport.connections import BUFFER_BYTES, PIECE_BYTES, BoundedHandler, UnreadRequestError
from gateway.generation.transport.failures import TRIES, map_error
from gateway.generation.transport.proxies import Proxy

_SENT_BYTES: Final = 64 * 1024
"""Body bytes per write: TLS copies its input."""
_AUTOMATIC_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def trusted_authorities(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the authorities of this machine, or of SSL_CERT_FILE and SSL_CERT_DIR, and those of `ca_file`."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One `aiohttp.ClientSession`: no cookies, redirects, environment or connection limit.

    `public_only` refuses non-public addresses after name resolution, for untrusted links.
    Timeouts are httpx's: `request.extensions["timeout"]`, seconds, keys connect and read; 0 expires immediately.

    `request.extensions["on_sent"]`, a function without arguments that never fails, is called immediately before the
    first byte is written to an open connection. Until then nothing was sent. Not for requests without a body. It is
    called again if no byte of the request was read, and the request is sent on another connection.

    `request.extensions["proxy"]` is the `Proxy` to use, which resolves the host's name: `public_only` cannot check it.
    `request.extensions["setting"]` names the URL in messages; default: "base_url".
    """

    def __init__(
        self, context: ssl.SSLContext | None = None, *, public_only: bool = False, idle_s: float = 15.0
    ) -> None:
        """`context` may be shared by transports: loading the certificates takes 20 ms.

        `idle_s`: maximum idle time of a connection; less if the server announces less by `Keep-Alive: timeout=N`.
        """
        self._context = context or ssl.create_default_context()
        self._public_only = public_only
        self._idle_s = idle_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._context,
            keepalive_timeout=self._idle_s,
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
        response = await self._exchange(self._session, request, limits)
        connection = response.connection
        handler = connection.protocol if connection else None  # none once the whole body has arrived
        assert isinstance(handler, BoundedHandler | None)
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response, handler))

    async def _exchange(
        self, session: aiohttp.ClientSession, request: httpx.Request, limits: Mapping[str, float | None]
    ) -> aiohttp.ClientResponse:
        """Sends a request, again if no byte of it was read, and returns the head of the response."""
        assert isinstance(request.stream, httpx.SyncByteStream)  # in full, and not joined as by `request.read`
        pieces = tuple(piece for piece in request.stream if piece)
        proxy: Proxy | None = request.extensions.get("proxy")
        headers = [(sys.intern(name.decode("ascii")), value.decode("latin-1")) for name, value in request.headers.raw]
        login = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        is_tunnelled = request.url.scheme == "https"
        for tried in range(1, TRIES + 1):
            content = _Content(pieces, request.extensions.get("on_sent")) if pieces else None
            try:
                return await session.request(
                    request.method,
                    URL(str(request.url), encoded=True),
                    headers=headers if is_tunnelled else [*headers, *login.items()],
                    data=content,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=limits.get("connect"), sock_read=limits.get("read")
                    ),
                    proxy=proxy.url if proxy else None,
                    proxy_headers=login if is_tunnelled and login else None,
                )
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                is_unread = isinstance(error, UnreadRequestError) or (content is not None and content.was_closed)
                cause = UnreadRequestError() if is_unread else error
                if not is_unread or tried == TRIES:
                    setting = request.extensions.get("setting", "base_url")
                    raise map_error(cause, _host_of(request.url), proxy, setting) from error
        raise AssertionError("unreachable")


def _host_of(url: httpx.URL) -> str:
    """Returns the host and port of a URL for messages."""
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"


class _Content(Payload):
    """A body in uncopied pieces that reports when it is written; the request head is buffered until then."""

    _autoclose = True  # nothing to close

    def __init__(self, pieces: tuple[bytes, ...], on_sent: Callable[[], None] | None) -> None:
        super().__init__(pieces)
        self._size = sum(len(piece) for piece in pieces)
        self._pieces = pieces
        self._on_sent = on_sent
        self.was_closed = False
        """The connection was closed before the first byte was written."""

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        assert isinstance(writer, StreamWriter)
        if writer.transport is None or writer.transport.is_closing():  # aiohttp would write nothing
            self.was_closed = True
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
