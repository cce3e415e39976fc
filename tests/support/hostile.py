"""A server that handles its connections by a plan, and records the received requests."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

Step = bytes | float | str
"""Bytes to send, seconds to wait, or: "close", "reset", "hang", "drip", "flood"."""

PATIENCE_S: Final = 20.0
"""Time after which the server closes a connection; longer than any call waits."""
DRIP_S: Final = 0.02


@dataclass(frozen=True)
class Plan:
    """Response plan of a request."""

    steps: tuple[Step, ...]
    reads: str = "all"
    """What it reads first: "all" of the request, its "head", or "nothing"."""
    drop: bytes = b" "
    """Data of drips and floods."""

    def __repr__(self) -> str:
        """Shortens floods, which are large and alike."""
        shown = [step[:2000] if isinstance(step, bytes) else step for step in self.steps]
        return f"Plan({shown!r}, reads={self.reads!r}, drop={self.drop[:40]!r})"


HONEST_END: Final = ("close",)


@dataclass
class Hostile:
    """The running server: one thread per connection, one plan at a time."""

    port: int
    plan: Plan = Plan(HONEST_END)
    received_bytes: int = 0
    requests: int = 0
    connections: int = 0
    pages: dict[bytes, Plan] = field(default_factory=dict)
    """Plans by path."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, plan: Plan) -> None:
        self.plan, self.received_bytes, self.requests, self.connections = plan, 0, 0, 0

    def handle(self, client: socket.socket) -> None:
        self.connections += 1
        client.settimeout(PATIENCE_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the pieces of a plan arrive apart, and at once
        with suppress(OSError), client:
            while self._answer(client):
                pass

    def _answer(self, client: socket.socket) -> bool:
        """Handles one request. Returns: True if the connection stays open."""
        plan, path = self.plan, b""
        if plan.reads != "nothing":
            path = self._read(client, whole=plan.reads == "all")
            if not path:
                return False
            plan = self.pages.get(path, self.plan)
        return all(self._act(client, plan, step) for step in plan.steps)

    def _read(self, client: socket.socket, *, whole: bool) -> bytes:
        """Returns the request's path; empty without a request."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            if not (piece := client.recv(65536)):
                return b""
            self.received_bytes += len(piece)
            seen += piece
        self.requests += 1
        head, _, body = seen.partition(b"\r\n\r\n")
        length = next(
            (int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0
        )
        while whole and len(body) < length and (piece := client.recv(65536)):
            self.received_bytes += len(piece)
            body += piece
        return head.split(b" ")[1]

    def _act(self, client: socket.socket, plan: Plan, step: Step) -> bool:
        """Returns True if the plan continues."""
        if isinstance(step, bytes):
            client.sendall(step)
        elif isinstance(step, float):
            time.sleep(step)
        elif step == "close":
            return False
        elif step == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif step == "hang":
            while client.recv(65536):
                pass
        else:
            _send_on(client, plan.drop, DRIP_S if step == "drip" else 0)
        return True


def _send_on(client: socket.socket, piece: bytes, pause_s: float) -> None:
    """Sends until the peer closes, or long after it should have."""
    ends_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_s:
        client.sendall(piece)
        if pause_s:
            time.sleep(pause_s)


@contextmanager
def hostile() -> Iterator[Hostile]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = Hostile(listener.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=server.handle, args=(client,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
