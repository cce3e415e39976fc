"""Raw client connections and their responses."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.harness import ADMIN_KEY, Gateway

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
FIXED_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
"""Headers of every response."""


@dataclass(frozen=True)
class Reply:
    """One raw response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> object:
        return self.document["error"]["code"]


@contextmanager
def connected(url: str, receive_bytes: int = 0) -> Iterator[socket.socket]:
    """Opens a connection, optionally with a small receive buffer.

    Pieces leave at once: by Nagle's algorithm, the second would wait 40 ms for the acknowledgement of the first.
    """
    host, _, port = url.partition("://")[2].partition(":")
    with socket.socket() as client:
        client.settimeout(20)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect((host, int(port)))
        yield client


def talk(url: str, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Returns everything received until the server closes. A reset while sending ends it too."""
    with connected(url) as client:
        with suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
                if pause_s:
                    time.sleep(pause_s)
        return received(client)


def received(client: socket.socket) -> bytes:
    """Returns everything received until the server closes or resets the connection, or another thread closes it."""
    found = b""
    with suppress(OSError):
        while chunk := client.recv(65536):
            found += chunk
    return found


def replies(raw: bytes) -> list[Reply]:
    """Splits pipelined responses, each with a length."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        assert len(pairs) == len(dict(pairs)), f"a header stands twice: {lines}"
        headers = dict(pairs)
        length = int(headers["content-length"])
        found.append(Reply(int(first.split(" ")[1]), headers, raw[:length]))
        raw = raw[length:]
    return found


def ask(url: str, request: bytes) -> Reply:
    """Returns the only response to a request on a connection that ends with it."""
    (reply,) = replies(talk(url, request))
    return reply


def head(line: bytes, *headers: bytes, key: str = "") -> bytes:
    """Renders a request that closes its connection."""
    lines = [line + b" HTTP/1.1", b"host: x", b"connection: close", *headers]
    lines += [b"authorization: Bearer " + key.encode()] if key else []
    return b"\r\n".join([*lines, b"", b""])


def serves(gateway: Gateway) -> bool:
    """Returns True if it still makes images, lists models and serves the admin API."""
    made = gateway.generate(prompt="a cat", response_format="url")
    admitted = ask(gateway.url, head(b"GET /admin/v1/tenants", key=ADMIN_KEY))
    return (200, 200, 200) == (made.status_code, gateway.get("/v1/models").status_code, admitted.status)


def resident_mb(pid: int) -> int:
    """Returns the peak memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def private_bytes(pid: int) -> int:
    """Returns private dirty memory, in RAM or swapped out: no code or shared libraries."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * sum(int(size) for size in re.findall(r"(?m)^(?:RssAnon|VmSwap):\s*(\d+) kB$", status))
