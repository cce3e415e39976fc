"""Around every request: its id, its timer, its headers, and afterwards its log line and its metrics."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.domain.faults import TABLE, Fault, GatewayError
from gateway.domain.trace import Span, Trace, TraceContext, parse_trace_context
from gateway.memory import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics
from gateway.web.draining import Drain
from gateway.web.lines import LineTerms, request_line
from gateway.web.rates import rate_headers
from gateway.web.record import Answered, RequestRecord, attach
from gateway.web.spans import spans_of
from gateway.wire.openai import render_error

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
"""nginx's number for a client that left before its answer."""
_ADDRESS_MAX_CHARS: Final = 64
"""A proxy that is believed may pass on anything."""
_UNKNOWN_ROUTE: Final = "_unknown"
_TENANTS_PATHS: Final = ("/v1/", "/minimaxi/")
_REFUSED_KEYS: Final = frozenset({Fault.INVALID_API_KEY, Fault.ADMIN_UNAUTHORIZED, Fault.AUTHENTICATION_THROTTLED})
_QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


_Header = tuple[bytes, bytes]
TellSpans = Callable[[TraceContext, Iterable[Span]], None]


@dataclass(frozen=True, slots=True)
class Ids:
    """Where new ids come from."""

    request: Callable[[], str]
    trace: Callable[[], str]
    """32 hexadecimal digits."""
    span: Callable[[], str]
    """16 hexadecimal digits."""


class Observing(Protocol):
    """How requests are told of."""

    @property
    def ids(self) -> Ids: ...

    @property
    def terms(self) -> LineTerms: ...

    @property
    def tell_spans(self) -> TellSpans | None:
        """None where nobody collects spans."""


class RequestScope:
    """Gives each request a record and reports it when the answer has left."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        monotonic: Callable[[], float],
        observing: Observing,
        drain: Drain,
        budget: ByteBudget,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._monotonic = monotonic
        self._ids = observing.ids
        self._terms = observing.terms
        self._tell_spans = observing.tell_spans
        self._drain = drain
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = self._begin(Headers(scope=scope))
        attach(scope.setdefault("state", {}), record)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers_of(record, message["headers"])
            await send(message)

        try:
            with self._metrics.requests_in_progress.track_inprogress():
                await self._app(scope, receive, send_with_headers)
        finally:
            if record.transfer:
                record.transfer.end()
            record.memory.close()  # the response has been read, but for what the connection buffers
            self._report(scope, record, status)

    def _begin(self, headers: Headers) -> RequestRecord:
        """The record of a new request, and what every line that is written meanwhile says of it."""
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else self._ids.request()
        context = self._trace_context(headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if context:
            structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
        return RequestRecord(
            request_id, self._monotonic(), ByteAccount(self._budget), trace=Trace(context, self._ids.span)
        )

    def _trace_context(self, headers: Headers) -> TraceContext | None:
        """The trace that the request is a part of: a new one where none came, if somebody keeps it."""
        given = headers.get("traceparent")
        if given is not None:
            states = ",".join(headers.getlist("tracestate"))
            context = parse_trace_context(given, states, self._ids.span())
            if context:
                return context
        return TraceContext(self._ids.trace(), self._ids.span()) if self._tell_spans else None

    def _headers_of(self, record: RequestRecord, given: Iterable[_Header]) -> list[_Header]:
        """The answer's headers: every request's own in the place of others of the same name."""
        own = {
            "x-request-id": record.id,
            "openai-version": OPENAI_VERSION,
            "openai-processing-ms": str(_ms(self._monotonic() - record.started_s)),
        }
        if record.rates:
            own.update(rate_headers(record.rates))
        own.update(record.headers)
        if record.asked:
            own["x-imagegate-queue-ms"] = str(_ms(record.trace.queue_s))
            own["x-imagegate-attempts"] = str(record.trace.attempts)
        if self._drain.is_on:
            own["connection"] = "close"  # the next request goes elsewhere
        added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
        replaced = {name for name, _ in added}
        return [header for header in given if header[0] not in replaced] + added

    def _report(self, scope: Scope, record: RequestRecord, status: int) -> None:
        route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE).replace(":path}", "}")
        client = str((scope.get("client") or ("",))[0])[:_ADDRESS_MAX_CHARS]
        total_s = self._monotonic() - record.started_s
        answered = Answered(scope["method"], route, status or _CLIENT_CLOSED_REQUEST, total_s, client)
        self._count(record, answered)
        is_quiet = route in _QUIET_ROUTES
        log = _LOG.info
        if answered.status >= 500:
            log = _LOG.warning
        elif (is_quiet and (answered.status < 400 or record.fault is Fault.CLIENT_LEFT)) or (
            record.fault is Fault.REQUESTS_THROTTLED
        ):
            log = _LOG.debug
        log("request", **request_line(record, answered, self._terms))
        if record.fault in _REFUSED_KEYS:  # for fail2ban: the native routes answer HTTP 200 to a wrong key
            _LOG.warning("authentication_failed", client=client, route=route, fault=record.fault.value)
        if self._tell_spans and record.trace.context and not is_quiet:
            self._tell_spans(record.trace.context, spans_of(record, record.trace.context, answered))

    def _count(self, record: RequestRecord, answered: Answered) -> None:
        metrics = self._metrics
        metrics.requests.labels(answered.route, record.model, record.tenant, str(answered.status)).inc()
        metrics.request_duration_seconds.labels(answered.route).observe(answered.total_s)
        if record.fault:
            metrics.request_errors.labels(record.fault.value, TABLE[record.fault].origin.value, record.tenant).inc()
        if record.asked:
            metrics.queue_wait_seconds.observe(record.trace.queue_s)
            metrics.overhead_seconds.observe(answered.own_s(record.trace))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


class _Cors(CORSMiddleware):
    """Starlette's, with a refused preflight answered as every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = GatewayError(Fault.PREFLIGHT_REFUSED, f"The preflight was refused: {bytes(response.body).decode()}.")
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(render_error(error), error.row.status, kept, "application/json")


class PublicCors:
    """CORS for browsers, on what tenants use: nobody's page is to read what operators do."""

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
