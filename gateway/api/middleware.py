"""Middleware of every request: context, response headers, log line, metrics and spans."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.openai import render_error
from gateway.api.request_context import ClientConnection
from gateway.api.request_log import RequestLogOptions, ResponseInfo, milliseconds, request_line
from gateway.api.request_spans import spans_of
from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError
from gateway.domain.tenants import Rates
from gateway.domain.tracing import Span, Trace, TraceContext, parse_trace_context
from gateway.generation.context import RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics

OPENAI_VERSION: Final = "2020-10-01"
"""The only version that OpenAI has ever sent (reference/openai-images.md 6.2)."""
EXPOSED_HEADERS: Final = (
    "x-request-id",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-images",
    "x-ratelimit-remaining-images",
    "x-ratelimit-reset-images",
    "x-imagegate-queue-ms",
    "x-imagegate-attempts",
    "x-imagegate-ignored",
    "x-imagegate-missing",
)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LOG = structlog.get_logger("imagegate.request")
_CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's status for a client that disconnects before its response."""
_ADDRESS_MAX_CHARS: Final = 64
"""A trusted proxy may send any text."""
_UNKNOWN_ROUTE: Final = "_unknown"
_TENANTS_PATHS: Final = ("/v1/", "/minimaxi/")
_REFUSED_KEYS: Final = frozenset(
    {ErrorCode.INVALID_API_KEY, ErrorCode.ADMIN_UNAUTHORIZED, ErrorCode.AUTHENTICATION_THROTTLED}
)
_QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


_Header = tuple[bytes, bytes]
SendSpans = Callable[[TraceContext, Iterable[Span]], None]


@dataclass(frozen=True, slots=True)
class Ids:
    """Generators of IDs."""

    request: Callable[[], str]
    trace: Callable[[], str]
    """32 hexadecimal digits."""
    span: Callable[[], str]
    """16 hexadecimal digits."""


class TelemetryOptions(Protocol):
    """Settings of request IDs, logs and spans."""

    @property
    def ids(self) -> Ids: ...

    @property
    def log_options(self) -> RequestLogOptions: ...

    @property
    def send_spans(self) -> SendSpans | None:
        """None if no spans are collected."""


class RequestContextMiddleware:
    """Creates the context of each request, and reports the request once its response is sent."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        monotonic: Callable[[], float],
        telemetry: TelemetryOptions,
        drain: ShutdownState,
        budget: ByteBudget,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._monotonic = monotonic
        self._ids = telemetry.ids
        self._log_options = telemetry.log_options
        self._send_spans = telemetry.send_spans
        self._drain = drain
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = self._begin(Headers(scope=scope), receive)
        scope.setdefault("state", {})["context"] = context
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers_of(context, message["headers"])
            await send(message)

        try:
            with self._metrics.requests_in_progress.track_inprogress():
                await self._app(scope, receive, send_with_headers)
        finally:
            if context.transfer:
                context.transfer.end()
            context.memory.close()  # only the connection's buffer may still hold bytes
            self._report(scope, context, status)
            del scope["state"]["context"]  # breaks a reference cycle with the connection and this scope

    def _begin(self, headers: Headers, receive: Receive) -> RequestContext:
        """Creates the context of a request, and binds its IDs to all log lines written meanwhile."""
        client_id = headers.get("x-request-id", "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else self._ids.request()
        trace_context = self._trace_context(headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if trace_context:
            structlog.contextvars.bind_contextvars(trace_id=trace_context.trace_id)
        trace = Trace(trace_context, self._ids.span)
        memory = ByteAccount(self._budget)
        return RequestContext(request_id, self._monotonic(), memory, ClientConnection(receive), trace=trace)

    def _trace_context(self, headers: Headers) -> TraceContext | None:
        """Returns the trace of the request. Starts a new one if there is none and spans are collected."""
        traceparent = headers.get("traceparent")
        if traceparent is not None:
            states = ",".join(headers.getlist("tracestate"))
            if parsed := parse_trace_context(traceparent, states, self._ids.span()):
                return parsed
        return TraceContext(self._ids.trace(), self._ids.span()) if self._send_spans else None

    def _headers_of(self, context: RequestContext, headers: Iterable[_Header]) -> list[_Header]:
        """Renders the response headers of a context. They replace others of the same name."""
        values = {
            "x-request-id": context.id,
            "openai-version": OPENAI_VERSION,
            "openai-processing-ms": str(milliseconds(self._monotonic() - context.started_s)),
        }
        if context.rates:
            values.update(rate_headers(context.rates))
        if context.ignored:
            values["x-imagegate-ignored"] = ", ".join(context.ignored)
        if context.missing:
            values["x-imagegate-missing"] = str(context.missing)
        if context.asked:
            values["x-imagegate-queue-ms"] = str(milliseconds(context.trace.queue_s))
            values["x-imagegate-attempts"] = str(context.trace.attempts)
        if self._drain.is_on:
            values["connection"] = "close"  # the next request goes elsewhere
        added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in values.items()]
        replaced = {name for name, _ in added}
        return [header for header in headers if header[0] not in replaced] + added

    def _report(self, scope: Scope, context: RequestContext, status: int) -> None:
        """Logs the request, updates the metrics and sends the spans."""
        route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE).replace(":path}", "}")
        client = str((scope.get("client") or ("",))[0])[:_ADDRESS_MAX_CHARS]
        total_s = self._monotonic() - context.started_s
        response = ResponseInfo(scope["method"], route, status or _CLIENT_CLOSED_REQUEST, total_s, client)
        metrics, error_code, trace = self._metrics, context.error_code, context.trace
        metrics.requests.labels(route, context.model, context.tenant, str(response.status)).inc()
        metrics.request_duration_seconds.labels(route).observe(total_s)
        if error_code:
            metrics.request_errors.labels(error_code.value, ERROR_SPECS[error_code].origin.value, context.tenant).inc()
        if context.asked:
            metrics.queue_wait_seconds.observe(trace.queue_s)
            metrics.overhead_seconds.observe(response.overhead_s(trace))
        is_quiet, log = route in _QUIET_ROUTES, _LOG.info
        if response.status >= 500:
            log = _LOG.warning
        elif error_code is ErrorCode.REQUESTS_THROTTLED or (
            is_quiet and (response.status < 400 or error_code is ErrorCode.CLIENT_DISCONNECTED)
        ):
            log = _LOG.debug
        log("request", **request_line(context, response, self._log_options))
        if error_code in _REFUSED_KEYS:  # for fail2ban: the native routes return HTTP 200 for a wrong key
            _LOG.warning("authentication_failed", client=client, route=route, error_code=error_code.value)
        if self._send_spans and trace.context and not is_quiet:
            self._send_spans(trace.context, spans_of(context, trace.context, response))


def rate_headers(rates: Rates) -> Iterator[tuple[str, str]]:
    """Renders `x-ratelimit-*`, in requests and in images."""
    for unit, rate in (("requests", rates.requests), ("images", rates.images)):
        if rate:
            minutes, seconds = divmod(rate.reset_s, 60)  # OpenAI writes "1s", "1m1s" (reference/openai-images.md 6.2)
            yield f"x-ratelimit-limit-{unit}", str(rate.limit)
            yield f"x-ratelimit-remaining-{unit}", str(rate.remaining)
            yield f"x-ratelimit-reset-{unit}", f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


class _Cors(CORSMiddleware):
    """Starlette's middleware, with a refused preflight rendered as an API error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = GatewayError(
            ErrorCode.PREFLIGHT_REFUSED, f"The preflight was refused: {bytes(response.body).decode()}."
        )
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(render_error(error), error.row.status, headers, "application/json")


class PublicCors:
    """Enables CORS on the tenant API only. The admin API never allows cross-origin requests."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._cors = _Cors(
            app,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_a_page_s = (
            scope["type"] == "http"
            and scope["path"].startswith(_TENANTS_PATHS)
            and any(name == b"origin" for name, _ in scope["headers"])
        )
        await (self._cors if is_a_page_s else self._app)(scope, receive, send)
