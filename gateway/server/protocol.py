"""uvicorn's HTTP protocol with limits on what clients may send, hold open, or leave unread; uvicorn has none."""

import asyncio
import time
import uuid
from typing import Final

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.api.bodies import note_disconnect
from gateway.api.public_url import IS_PROXIED
from gateway.api.security_headers import DEFAULTS, SECURITY_HEADERS, TLS_HEADERS
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.server.config import ServerConfig
from gateway.server.connections import Connection
from gateway.server.framing import Framing, build_rejection, build_without_upgrade, find_problem
from gateway.server.transport import BODY_MAX_BYTES, REST_MAX_BYTES, CoalescingTransport

_LOG = structlog.get_logger("imagegate.http")
_FIELD_BYTES: Final = 128
"""Memory of one header field beside its characters."""


class _BlockableFlow(FlowControl):
    """uvicorn's flow control, with reading that can be blocked.

    uvicorn reads on after each response of pipelined requests, and adds the bytes to the body of the last one, which no
    program reads yet.
    """

    is_blocked = False
    """Blocks reading, even if a program or uvicorn resumes it."""

    def resume_reading(self) -> None:
        if not self.is_blocked:
            super().resume_reading()


class LimitedHttpProtocol(HttpToolsProtocol):
    """Rejects what is too large, closes idle connections, and renders errors as OpenAI does."""

    __slots__ = (  # 1.2 KB less per connection: with few enough attributes Python shares their names
        "_connection",
        "_framing",
        "_head_timer",
        "_is_in_head",
        "_is_rejected",
        "_unanswered",
        "_write_timer",
    )

    config: ServerConfig

    def __init__(
        self, config: ServerConfig, server_state: ServerState, app_state: dict[str, object], connection: Connection
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connection = connection
        self._is_in_head, self._is_rejected = True, False  # bytes after a rejected request are not parsed
        self._framing = Framing(self.config.connection_limits.max_header_bytes)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unanswered: list[tuple[RequestResponseCycle, int]] = []
        """Requests without a complete response, with their heads' memory. Several if the client pipelines."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.flow: _BlockableFlow = _BlockableFlow(transport)
        self.transport: CoalescingTransport = CoalescingTransport(
            transport, self.loop, self, self.config.connection_limits.write_timeout_s
        )
        self._connection.transport = transport
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.close()
        for cycle, _ in self._unanswered:  # uvicorn notifies only the newest
            if not cycle.response_complete:
                note_disconnect(cycle.scope, time.monotonic())
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()  # they never begin
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn keeps it after a reset, and with it all of the connection
        for timer in (self._head_timer, self._write_timer, self.transport.end_timer):
            if timer is not None:
                timer.cancel()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = self._framing.has_head_boundary = True
        self._framing.body_bytes = 0
        self._start_head_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises: GatewayError, at which the parser stops."""
        if not self._is_in_head:
            return  # a trailer, which must not become a header of the request in progress
        super().on_header(name, value)
        if len(self.headers) > self.config.connection_limits.fields_max:
            raise GatewayError(ErrorCode.HEADERS_TOO_LARGE, "too many fields")

    def on_headers_complete(self) -> None:
        """Raises: GatewayError, at which the parser stops."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise GatewayError(ErrorCode.MALFORMED_HTTP, "CONNECT")
            return  # `data_received` feeds this head again
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._framing.accounted_bytes += head_bytes
        if head_bytes > self.config.connection_limits.max_header_bytes:  # it came in one segment, which may be larger
            raise GatewayError(ErrorCode.HEADERS_TOO_LARGE, "max_header_bytes")
        if len(self.pipeline) >= self.config.connection_limits.pipelined_max:
            raise GatewayError(ErrorCode.MALFORMED_HTTP, "too many pipelined requests")
        if problem := find_problem(self.parser.get_http_version(), self.headers):
            raise GatewayError(ErrorCode.MALFORMED_HTTP, problem)
        self.scope["state"][IS_PROXIED] = self._connection.is_proxy
        super().on_headers_complete()
        self._is_in_head, self._framing.has_head_boundary = False, True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.parser.set_dangerous_leniencies(lenient_keep_alive=self.cycle.keep_alive)  # not decided by trailers
        security = TLS_HEADERS if self.scheme == "https" else SECURITY_HEADERS
        self.cycle.default_headers = [*self.server_state.default_headers, *security]
        self.scope["state"][DEFAULTS] = self.cycle.default_headers
        self._unanswered.append((self.cycle, head_bytes + _FIELD_BYTES * len(self.headers)))
        self.flow.is_blocked = bool(self.pipeline)

    def on_chunk_header(self) -> None:
        self._framing.has_chunk = True

    def on_body(self, body: bytes) -> None:
        self._framing.accounted_bytes += len(body)
        self._framing.body_bytes += len(body)
        super().on_body(body)

    def _should_upgrade(self) -> bool:
        """Makes uvicorn ignore the rest of a head with an Upgrade."""
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        self._unset_keepalive_if_required()
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as pause:  # fed again without it: its body would be read as a request
                method, version = self.parser.get_method(), self.parser.get_http_version()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
                rest = build_without_upgrade(method, self.url, version, self.headers) + rest[pause.args[0] :]
            except httptools.HttpParserError as error:
                cause, rest = error.__context__, b""
                if isinstance(cause, GatewayError):
                    self._reject(cause.error_code, cause.detail)
                else:
                    self._reject(ErrorCode.MALFORMED_HTTP, str(error))
        is_too_large = self._framing.end_segment(len(data))
        self._update_connection()
        if self.transport.is_closing():
            return
        if is_too_large:
            self._reject(ErrorCode.HEADERS_TOO_LARGE, "max_header_bytes")
        elif not self._unanswered and self._head_timer is None and self.timeout_keep_alive_task is None:
            self._start_head_timer()  # the rest of a body that the program did not read, or nothing

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.flow.is_blocked = self._is_rejected or bool(self.pipeline)
        while self._unanswered and self._unanswered[0][0].response_complete:
            cycle, _ = self._unanswered.pop(0)  # its program has the scope, and gets no body after the response
            cycle.body, cycle.scope = bytearray(), {}  # type: ignore[typeddict-item] # it is read no more
        if not self._unanswered and not self._is_in_head:
            self.url, self.headers, self.scope = b"", [], self.cycle.scope
        if self.transport.is_closing() and self.transport.end_timer is None:
            self.transport.close()  # the client has closed its side, and has limited time to read the response
        self._update_connection()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.close()  # also if the client has closed its side, and reads no response

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.config.connection_limits.write_timeout_s, self.transport.abort)
        self._update_connection()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()
        self._update_connection()

    def _update_connection(self) -> None:
        """Reports if the connection waits for its client, and the memory that waits with it.

        That is an incomplete head, and the requests behind the one in progress.
        """
        held_bytes = self._framing.held_bytes + sum(
            head_bytes + len(cycle.body)
            for cycle, head_bytes in (self._unanswered if self.flow.write_paused else self._unanswered[1:])
        )
        if self._is_in_head and self.headers:
            held_bytes += _FIELD_BYTES * len(self.headers)
        self._connection.update(is_idle=not self._unanswered, is_unread=self.flow.write_paused, held_bytes=held_bytes)

    def _start_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.config.connection_limits.header_timeout_s, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        if self._unanswered:
            self._start_head_timer()
        else:
            self.transport.close()

    def count_discarded(self) -> int:
        """Number of bytes that the client may be sending and that are discarded."""
        has_unread = bool(self.cycle) and self.cycle.more_body
        return REST_MAX_BYTES if self._is_rejected else BODY_MAX_BYTES if has_unread else 0

    def _reject(self, error_code: ErrorCode, problem: str) -> None:
        """Sends an error response, after earlier ones, and closes. The program never sees the request."""
        self._is_rejected = self.flow.is_blocked = True
        self.config.rejections.add(problem)
        if self._unanswered:
            if self.pipeline or not self.cycle.more_body or self.cycle.response_started:
                self.cycle.keep_alive = False
                self.flow.pause_reading()
                return
            self.cycle.disconnected = True  # its body will never be complete
            self.cycle.message_event.set()
        if self._is_in_head or self._unanswered:  # a second response would be read as the next one
            request_id, client = f"req_{uuid.uuid4().hex}", self.client[0] if self.client else ""
            _LOG.debug(
                "http_request_rejected",
                request_id=request_id,
                error_code=error_code.value,
                problem=problem,
                client=client,
            )
            security = TLS_HEADERS if self.scheme == "https" else SECURITY_HEADERS
            self.transport.write(build_rejection(GatewayError(error_code), request_id, security))
        self.transport.close()
