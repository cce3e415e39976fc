"""Connections that a server closes between two requests, or before it has read one."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gateway.generation.transport import AiohttpTransport
from tests.support.certificates import certify

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})]),
]

FIN_S = 0.05
"""Longer than a FIN takes on this machine."""

ANSWER_S = 0.02
"""The client has then finished writing, as with every real provider."""


@dataclass
class ClosingServer:
    """A server in a thread. It answers each request, and closes the connections that it is told to close."""

    keep_alive: str = ""
    closes_after_answer: bool = False
    unread: int = 0
    """Connections that are closed, on `close_now`, before a byte is read."""
    close_now: threading.Event = field(default_factory=threading.Event)
    is_closed: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    requests: int = 0
    url: str = ""
    tls: ssl.SSLContext | None = None

    def run(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    self._serve(self.tls.wrap_socket(connection, server_side=True) if self.tls else connection)
                except OSError:
                    continue

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if self.connections <= self.unread:
                self.close_now.wait(60)
                connection.close()
                self.is_closed.set()
                return
            while self._answer(connection):
                if self.closes_after_answer:
                    return

    def _answer(self, connection: socket.socket) -> bool:
        received = b""
        while not received.endswith(b"END"):
            piece = connection.recv(65536)
            if not piece:
                return False
            received += piece
        self.requests += 1
        time.sleep(ANSWER_S)
        announced = f"Keep-Alive: {self.keep_alive}\r\n" if self.keep_alive else ""
        connection.sendall(f"HTTP/1.1 200 OK\r\n{announced}Content-Length: 2\r\n\r\nok".encode())
        return True


@contextmanager
def running(server: ClosingServer) -> Iterator[ClosingServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.url = f"{'https' if server.tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=server.run, args=(listener,), daemon=True)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


async def send(
    transport: AiohttpTransport, url: str, on_sent: Callable[[], None] = lambda: None, size: int = 10
) -> int:
    extensions = {"timeout": {"connect": 30.0, "read": 30.0}, "on_sent": on_sent}
    request = httpx.Request("POST", url, content=b"x" * size + b"END", extensions=extensions)
    response = await transport.handle_async_request(request)
    assert b"ok" == b"".join([piece async for piece in response.aiter_raw()])
    await response.aclose()
    return response.status_code


@pytest.mark.parametrize(
    ("keep_alive", "connections"),
    [
        ("", 1),
        ("timeout=60", 1),
        ("timeout=60, max=100", 1),
        ("max=100", 1),
        ("timeout=1", 2),
        ("max=5, Timeout=0", 2),
        ("timeout=x", 1),
    ],
)
async def test_an_announced_idle_time_is_honoured(keep_alive: str, connections: int) -> None:
    with running(ClosingServer(keep_alive)) as server:
        async with AiohttpTransport() as transport:
            for _ in range(2):
                await send(transport, server.url)
    assert (connections, 2) == (server.connections, server.requests)


@pytest.mark.parametrize(("idle_s", "connections"), [(60.0, 1), (0.001, 2)])
async def test_the_idle_time_is_a_setting(idle_s: float, connections: int) -> None:
    with running(ClosingServer()) as server:
        async with AiohttpTransport(idle_s=idle_s) as transport:
            await send(transport, server.url)
            await asyncio.sleep(0.05)
            await send(transport, server.url)
    assert connections == server.connections


@pytest.fixture(params=["plain", "tls"])
def contexts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The TLS contexts of server and client."""
    if request.param == "plain":
        return None, None
    files = certify(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context, files.trusted


Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


async def test_a_connection_that_the_server_has_closed_is_not_used_again(contexts: Contexts) -> None:
    sent = list[float]()
    with running(ClosingServer(closes_after_answer=True, tls=contexts[0])) as server:
        async with AiohttpTransport(contexts[1]) as transport:
            for _ in range(5):
                await send(transport, server.url, lambda: sent.append(time.monotonic()))
                time.sleep(FIN_S)  # noqa: ASYNC251 - a busy event loop: the close has arrived and is not processed
    assert (5, 5, 5) == (server.connections, server.requests, len(sent))


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize("unread", [1, 2])
async def test_a_request_of_which_no_byte_was_read_is_sent_again(size: int, unread: int) -> None:
    sent = list[float]()
    with running(ClosingServer(unread=unread)) as server:

        def close_first() -> None:
            """The server closes the connection after the last check, and before the first byte is written."""
            sent.append(time.monotonic())
            server.close_now.set()
            if server.connections <= unread:
                assert server.is_closed.wait(60)
                time.sleep(FIN_S)

        async with AiohttpTransport() as transport:
            assert 200 == await send(transport, server.url, close_first, size)
    assert (unread + 1, 1) == (server.connections, server.requests)
    assert 2 <= len(sent) <= unread + 1


async def test_after_three_unread_connections_nothing_was_sent() -> None:
    with running(ClosingServer(unread=99)) as server:
        server.close_now.set()
        async with AiohttpTransport() as transport:
            with pytest.raises(httpx.ConnectError, match="closed 3 connections before it had read the request"):
                await send(transport, server.url, lambda: time.sleep(FIN_S))
    assert (3, 0) == (server.connections, server.requests)
