"""Every way to frame a request, each with an upgrade offer, and a server that echoes requests.

Bodies are requests themselves: a server that ends a message too early answers them.
"""

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from starlette.types import Receive, Scope, Send

from tests.support.strangers import Reply, replies

JAVA = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Host: x",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"Upgrade: h2c",
)
"""Head of a java.net.http request over http://, which always has these fields."""
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with method, path and body."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps([scope["method"], scope["path"], body.decode()]).encode()
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@dataclass(frozen=True)
class Request:
    """One request; `body` is None if it has none."""

    method: bytes = b"POST"
    path: bytes = b"/v1/1"
    body: bytes | None = SMUGGLED
    is_chunked: bool = False
    offer: tuple[bytes, ...] = JAVA

    @property
    def head(self) -> bytes:
        fields = [] if self.body is None else [b"content-length: %d" % len(self.body)]
        if self.is_chunked:
            fields = [b"transfer-encoding: chunked"]
        return b"\r\n".join([self.method + b" " + self.path + b" HTTP/1.1", *self.offer, *fields, b"", b""])

    @property
    def sent(self) -> bytes:
        body = self.body or b""
        if self.is_chunked:
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:]) if part)
            return self.head + chunks + b"0\r\n\r\n"
        return self.head + body

    @property
    def echoed(self) -> list[str]:
        return [self.method.decode(), self.path.decode(), (self.body or b"").decode()]

    def at(self, path: str) -> "Request":
        return replace(self, path=path.encode())

    def padded(self, size: int) -> "Request":
        """Returns the request with empty lines before the request in its body, which servers skip."""
        return self if self.body is None else replace(self, body=b"\r\n" * (size // 2) + self.body)


FRAMINGS = {
    "length": Request(),
    "chunks": Request(is_chunked=True),
    "no body": Request(b"GET", body=None),
    "a length of 0": Request(body=b""),
    "GET with a length": Request(b"GET"),
    "GET with chunks": Request(b"GET", is_chunked=True),
}

TRAILERS = {
    "connection: close": b"Connection: close",
    "connection: close, twice": b"connection: close\r\nconnection: keep-alive, close",
    "proxy-connection": b"Proxy-Connection: close",
    "keep-alive": b"Connection: keep-alive\r\nKeep-Alive: timeout=1, max=1",
    "upgrade": b"Connection: upgrade\r\nUpgrade: websocket",
    "upgrade and close": b"Upgrade: h2c\r\nConnection: upgrade, close",
    "content-length": b"Content-Length: 5",
    "transfer-encoding": b"Transfer-Encoding: chunked",
    "transfer-encoding, not chunked": b"Transfer-Encoding: identity",
    "fields of a head": b"Host: y\r\nAuthorization: Bearer y\r\nExpect: 100-continue",
}
"""Trailer fields that are only valid in heads (RFC 9110 section 6.5.1)."""


def send_apart(client: socket.socket, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.001)  # usually arrives separately


def read_reply(client: socket.socket) -> Reply:
    """Reads one reply on a connection that stays open, and no byte of another."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += receive_some(client)
    head = raw.partition(b"\r\n\r\n")[0].lower()
    length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    while len(raw) < len(head) + 4 + length:
        raw += receive_some(client)
    (reply,) = replies(raw)
    return reply


def receive_some(client: socket.socket) -> bytes:
    found = client.recv(65536)
    assert found, "the connection was closed"
    return found


def exchange(client: socket.socket, *pieces: bytes) -> list[str]:
    """Sends one request in these pieces and returns the echoed replies."""
    send_apart(client, pieces)
    found: list[str] = read_reply(client).document
    return found
