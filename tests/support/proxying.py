"""An HTTP proxy as companies run it, and servers with certificates of a private authority behind it."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from tests.support.certificates import Files

_PIECE_BYTES = 64 * 1024
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class HttpProxy:
    """A proxy: CONNECT, and requests in absolute form. It resolves the names of `hosts`."""

    hosts: Mapping[str, str] = field(default_factory=dict)
    """The address to connect to, by host and port."""
    login: str = ""
    """The only accepted value of Proxy-Authorization; empty accepts all requests."""
    refusal: int = 0
    """The status of all responses; 0 serves."""
    page: str = ""
    """The body of refusals."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and target of each request."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        method, target, _ = line.split(" ")
        self.requests.append(f"{method} {target}")
        logins = [one.partition(": ")[2] for one in lines if one.lower().startswith("proxy-authorization: ")]
        status = self.refusal or (407 if self.login and logins != [self.login] else 0)
        if status:
            challenge = (
                "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n" if status == 407 else ""
            )
            body = f"Content-Type: text/html\r\nContent-Length: {len(self.page)}\r\n\r\n{self.page}"
            writer.write(f"HTTP/1.1 {status} Refused\r\n{challenge}{body}".encode())
            return
        parts = urlsplit(target if "://" in target else f"//{target}")
        own = f"{parts.hostname}:{parts.port or 80}"
        host, _, port = self.hosts.get(own, own).rpartition(":")
        try:
            upstream = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            kept = [one for one in lines if not one.lower().startswith(("proxy-", "connection:"))]
            path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
            upstream[1].write("\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close\r\n\r\n"]).encode())
        await _join((reader, writer), upstream)


async def _join(*pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Passes bytes on in both directions until either side closes."""
    (reader, writer), (other_reader, other_writer) = pair
    copies = [asyncio.ensure_future(_copy(reader, other_writer)), asyncio.ensure_future(_copy(other_reader, writer))]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        other_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


@contextmanager
def proxying(
    hosts: Mapping[str, str] | None = None, *, login: str = "", refusal: int = 0, page: str = ""
) -> Iterator[HttpProxy]:
    """Runs a proxy in a thread."""
    proxy = HttpProxy(hosts or {}, login, refusal, page)
    with _listening(proxy.handle, None) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


@contextmanager
def with_tls(url: str, files: Files) -> Iterator[str]:
    """Serves a plain HTTP server with TLS; yields host and port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = url.removeprefix("http://").partition(":")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join((reader, writer), await asyncio.open_connection(host, int(port)))

    with _listening(handle, context) as tls_port:
        yield f"127.0.0.1:{tls_port}"


@contextmanager
def alerting() -> Iterator[int]:
    """Runs a TLS server that answers plain HTTP with an alert, as most do; yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x15\x03\x01\x00\x02\x02\x46")

    with _listening(handle, None) as port:
        yield port


@contextmanager
def _listening(handle: Handler, context: ssl.SSLContext | None) -> Iterator[int]:
    """Runs a server in a thread of its own; yields its port."""
    started, stop = threading.Event(), list[Callable[[], object]]()
    ports = list[int]()

    async def run() -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        stop.append(partial(loop.call_soon_threadsafe, stopped.set))
        async with _server(handle, context) as port:
            ports.append(port)
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield ports[0]
    finally:
        stop[0]()
        thread.join(60)


@asynccontextmanager
async def _server(handle: Handler, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    open_tasks, accepted = set[asyncio.Task[None]](), set[asyncio.StreamWriter]()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await handle(reader, writer)
                await writer.drain()
            finally:
                writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.add(writer)
        task = asyncio.ensure_future(guarded(reader, writer))
        open_tasks.add(task)
        task.add_done_callback(open_tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)  # connections that a client has just aborted get their tasks, or end their handshakes
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
        for writer in accepted:  # also those whose task never ran, or whose client does not read
            writer.transport.abort()
        await asyncio.sleep(0.01)  # the closed transports release their sockets
