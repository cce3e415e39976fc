"""uvicorn's HTTP protocol with bounds on what a stranger may send before anybody knows who it is.

By itself uvicorn takes request heads of any size and waits for them for ever.
"""

import asyncio
import uuid
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.domain.faults import Fault, GatewayError
from gateway.wire.openai import render_error

HEAD_MAX_BYTES: Final = 64 * 1024
"""Request line and headers together: OpenAI's own budget (reference/openai-images.md 6.2)."""
HEAD_TIMEOUT_S: Final = 30.0
"""For a head to arrive, from the connection or from its first byte."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses heads that are too large, closes connections whose head does not come, answers errors as OpenAI does."""

    _is_in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self._refuse(GatewayError(Fault.HEAD_TOO_LARGE))

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours says more
        self._refuse(GatewayError(Fault.MALFORMED_HTTP))

    def _begin_head(self) -> None:
        self._end_head()
        self._is_in_head = True
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _end_head(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: GatewayError) -> None:
        """Answer without the program, which never sees such a request, and close."""
        body = render_error(error)
        head = (
            f"HTTP/1.1 {error.row.status} {_REASONS[error.row.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req_{uuid.uuid4().hex}\r\nx-should-retry: false\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


_REASONS: Final = {400: "Bad Request", 431: "Request Header Fields Too Large"}
