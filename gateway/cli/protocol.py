"""uvicorn's HTTP protocol with bounds on what a stranger may send, hold open, or leave unread.

By itself uvicorn takes request heads of any size, waits for them for ever, and keeps an answer that nobody reads.
"""

import asyncio
import re
import uuid
from dataclasses import dataclass
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.domain.faults import Fault, GatewayError
from gateway.metrics import CONNECTIONS, Level
from gateway.wire.openai import render_error

_UPGRADE: Final = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_REASONS: Final = {400: "Bad Request", 431: "Request Header Fields Too Large"}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection."""

    head_max_bytes: int = 64 * 1024
    """Request line and headers together: OpenAI's own budget (reference/openai-images.md 6.2)."""
    head_timeout_s: float = 30.0
    """For a head to arrive."""
    send_timeout_s: float = 300.0
    """For a full write buffer to be read."""


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration with our bounds on connections and on the end, which reach the workers with it."""

    connection_limits: ConnectionLimits = ConnectionLimits()
    drain_timeout_s: float = 5.0
    drain_grace_s: float = 0.0


class BoundedProtocol(HttpToolsProtocol):
    """Refuses what is too large, closes what waits for nothing, and answers errors as OpenAI does."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.connection_limits if isinstance(config, BoundedConfig) else ConnectionLimits()
        self._is_in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        told = app_state.get(CONNECTIONS)
        self._connections = told if isinstance(told, Level) else None
        self._cycles: list[RequestResponseCycle] = []
        """Requests of this connection that are not answered: a client may send several before it reads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if self._connections:
            self._connections.inc()
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connections:
            self._connections.dec()
        for cycle in self._cycles:  # uvicorn tells the newest alone
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._end_head()
        self._stop_write_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if self.cycle is not None:
            self._cycles.append(self.cycle)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._is_in_head
        super().data_received(_without_upgrade(data) if was_in_head else data)
        if self.transport.is_closing():
            return
        if self._is_in_head and was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_max_bytes:
                self._refuse(GatewayError(Fault.HEAD_TOO_LARGE))
        elif not self._is_answering() and self._head_timer is None and self.timeout_keep_alive_task is None:
            self._start_head_timer()  # what is left of a body that nobody wanted, or nothing at all

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self._limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours says more
        self._refuse(GatewayError(Fault.MALFORMED_HTTP))

    def _begin_head(self) -> None:
        self._end_head()
        self._is_in_head = True
        self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._start_head_timer()
        else:
            self.transport.close()

    def _end_head(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete  # None before the first request

    def _refuse(self, error: GatewayError) -> None:
        """Answer without the program, which never sees such a request, and close; an earlier answer goes first."""
        if self._is_answering():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        body = render_error(error)
        head = (
            f"HTTP/1.1 {error.row.status} {_REASONS[error.row.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req_{uuid.uuid4().hex}\r\nx-should-retry: false\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """A head without its wish to speak another protocol, which a server may ignore (RFC 9110 section 7.8).

    Clients that offer h2c send it with ordinary requests; the parser would take their body for the other protocol.
    """
    if not _UPGRADE.search(data):
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-ignored-upgrade", head) + end + rest
