"""Around every request: its id, its timer, its headers, and afterwards its log line and its metrics."""

import re
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.domain.faults import Fault, GatewayError
from gateway.metrics import Metrics
from gateway.web.record import RequestRecord, attach
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
_UNKNOWN_ROUTE: Final = "_unknown"
_QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestScope:
    """Gives each request a record and reports it when the answer has left."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        monotonic: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._monotonic = monotonic
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(self._request_id(scope), self._monotonic())
        attach(scope.setdefault("state", {}), record)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=record.id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), record)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._report(scope, record, status)

    def _request_id(self, scope: Scope) -> str:
        given = Headers(scope=scope).get("x-request-id", "")
        return given if _REQUEST_ID.fullmatch(given) else self._new_request_id()

    def _add_headers(self, headers: MutableHeaders, record: RequestRecord) -> None:
        headers["x-request-id"] = record.id
        headers["openai-version"] = OPENAI_VERSION
        headers["openai-processing-ms"] = str(_ms(self._monotonic() - record.started_s))
        for name, value in record.headers:
            headers[name] = value
        if record.asked:
            headers["x-imagegate-queue-ms"] = str(_ms(record.trace.queue_s))
            headers["x-imagegate-attempts"] = str(record.trace.attempts)

    def _report(self, scope: Scope, record: RequestRecord, status: int) -> None:
        route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE).replace(":path}", "}")
        total_s = self._monotonic() - record.started_s
        status = status or _CLIENT_CLOSED_REQUEST
        self._metrics.requests.labels(route, record.model, record.tenant, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(total_s)
        if record.fault:
            self._metrics.refusals.labels(record.fault.value, record.tenant).inc()
        if record.asked:
            self._metrics.queue_seconds.observe(record.trace.queue_s)
            self._metrics.overhead_seconds.observe(max(0.0, total_s - record.trace.upstream_s - record.trace.queue_s))
        log = _LOG.info
        if status >= 500:
            log = _LOG.warning
        elif route in _QUIET_ROUTES and status < 400:
            log = _LOG.debug
        log("request", **_line(scope["method"], route, record, status, total_s))


def _line(method: str, route: str, record: RequestRecord, status: int, total_s: float) -> dict[str, object]:
    """The canonical line. Empty fields are left out."""
    line: dict[str, object] = {
        "method": method,
        "route": route,
        "status": status,
        "tenant": record.tenant,
        "key_id": record.key_id,
        "admin": record.admin,
        "model": record.model,
        "asked": record.asked,
        "delivered": record.delivered,
        "attempts": record.trace.attempts,
        "upstream_keys": ",".join(dict.fromkeys(record.trace.key_fingerprints)),
        "fault": record.fault.value if record.fault else "",
        "detail": record.detail,
        "queue_ms": _ms(record.trace.queue_s) if record.asked else "",
        "upstream_ms": _ms(record.trace.upstream_s) if record.asked else "",
    }
    return {name: value for name, value in line.items() if value not in {"", 0}} | {"total_ms": _ms(total_s)}


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
    """CORS for browsers, on everything but the admin API."""

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
        is_admin = scope["type"] == "http" and scope["path"].startswith("/admin/")
        await (self._app if is_admin else self._cors)(scope, receive, send)
