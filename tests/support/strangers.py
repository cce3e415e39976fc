"""Raw connections of strangers, and what they are answered."""

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
"""What every answer has."""


@dataclass(frozen=True)
class Reply:
    """One answer, as it came."""

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
    """A connection, on request with so small a receive buffer."""
    host, _, port = url.partition("://")[2].partition(":")
    with socket.socket() as client:
        client.settimeout(20)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect((host, int(port)))
        yield client


def talk(url: str, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes until the server closes. Who is cut off while he still sends has nothing to say any more."""
    with connected(url) as client:
        with suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
                if pause_s:
                    time.sleep(pause_s)
        return received(client)


def received(client: socket.socket) -> bytes:
    """What comes until the server closes, or cuts the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            found += chunk
    return found


def replies(raw: bytes) -> list[Reply]:
    """Answers that follow each other, each with a length."""
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
    """The one answer to a request, which the server or the request ends the connection with."""
    (reply,) = replies(talk(url, request))
    return reply


def head(line: bytes, *headers: bytes, key: str = "") -> bytes:
    """A request that ends its connection."""
    lines = [line + b" HTTP/1.1", b"host: x", b"connection: close", *headers]
    lines += [b"authorization: Bearer " + key.encode()] if key else []
    return b"\r\n".join([*lines, b"", b""])


def serves(gateway: Gateway) -> bool:
    """Whether it still makes images, tells the models and lets administrators in."""
    made = gateway.generate(prompt="a cat", response_format="url")
    admitted = ask(gateway.url, head(b"GET /admin/v1/tenants", key=ADMIN_KEY))
    return (200, 200, 200) == (made.status_code, gateway.get("/v1/models").status_code, admitted.status)


def resident_mb(pid: int) -> int:
    """The most memory that a process has had."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def private_bytes(pid: int) -> int:
    """Memory that the process alone has written to, in RAM or swapped out: not code, and no shared libraries."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * sum(int(size) for size in re.findall(r"(?m)^(?:RssAnon|VmSwap):\s*(\d+) kB$", status))
