"""Middleware of every request: context, response headers, CORS, errors, and the operators' own ports."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.bodies import ClientConnection, context_of
from gateway.api.errors import render_failure
from gateway.api.openai_responses import render_error
from gateway.api.request_log import Telemetry, report_request
from gateway.api.response_headers import context_headers
from gateway.api.security_headers import DEFAULTS
from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ErrorCode, GatewayError, detach
from gateway.domain.tracing import Trace, TraceContext, parse_trace_context
from gateway.generation.context import RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
OPENAPI: Final = "/openapi.json"
ADMIN: Final = "/admin/"
CONSOLE: Final = "/console"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ON_EVERY_PORT: Final = frozenset({HEALTHZ, READYZ})
_OPERATORS: Final = frozenset({HEALTHZ, READYZ, METRICS, OPENAPI, "/admin", CONSOLE})
_OTHER_SPELLING: Final = re.compile(rb"(?i)%(2[def]|3[0-9]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9ae])")
"""Encoded unreserved characters (RFC 3986 section 2.3), slashes and backslashes."""


def is_operators(path: str) -> bool:
    return path in _OPERATORS or path.startswith((ADMIN, f"{CONSOLE}/"))


class App(Starlette):
    """An application with only the middleware passed to it.

    Starlette's own two layers would see every message of a request, and render errors as plain text.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for kind, args, kwargs in reversed(self.user_middleware):
            app = kind(app, *args, **kwargs)
        return app


@dataclass(frozen=True, slots=True, repr=False)
class AsgiEndpoint:
    """Runs a route's handler as an ASGI application. Starlette would wrap a function in two more layers."""

    handle: Callable[[Request], Awaitable[Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.handle(Request(scope, receive, send))
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True, repr=False)
class RequestContextMiddleware:
    """Creates the context of each request, and reports the request once its response is sent."""

    app: ASGIApp
    metrics: Metrics
    monotonic: Callable[[], float]
    telemetry: Telemetry
    drain: ShutdownState
    budget: ByteBudget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = self._begin(Headers(scope=scope), receive)
        scope.setdefault("state", {})["context"] = context

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status, context.is_unheard = message["status"], context.left_s is not None
                message["headers"] = self._headers_of(context, message["headers"])
                own, defaults = {name for name, _ in message["headers"]}, scope["state"].get(DEFAULTS, [])
                defaults[:] = [header for header in defaults if header[0] not in own]
            await send(message)
            if context.on_first_byte and message["type"] == "http.response.body":
                context.on_first_byte()
                context.on_first_byte = None

        try:
            with self.metrics.requests_in_progress.track_inprogress():
                await self.app(scope, receive, send_with_headers)
        finally:
            if context.transfer:
                context.transfer.end()
            context.memory.close()  # only the connection's buffer may still hold bytes
            total_s = self.monotonic() - context.started_s
            report_request(scope, context, total_s, self.metrics, self.telemetry)
            del scope["state"]["context"]  # breaks a reference cycle with the connection and this scope

    def _begin(self, headers: Headers, receive: Receive) -> RequestContext:
        """Creates the context of a request, and binds its IDs to all log lines written meanwhile.

        A trace starts here if the request has none and spans are collected.
        """
        ids, position, bound = self.telemetry, None, structlog.contextvars.bind_contextvars
        client_id = headers.get("x-request-id", "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else ids.new_request_id()
        if traceparent := headers.get("traceparent"):
            states = ",".join(headers.getlist("tracestate"))
            position = parse_trace_context(traceparent, states, ids.new_span_id())
        if position is None and ids.send_spans:
            position = TraceContext(ids.new_trace_id(), ids.new_span_id())
        structlog.contextvars.clear_contextvars()
        bound(request_id=request_id, **({"trace_id": position.trace_id} if position else {}))
        trace, memory = Trace(position, ids.new_span_id), ByteAccount(self.budget)
        return RequestContext(request_id, self.monotonic(), memory, ClientConnection(receive), trace=trace)

    def _headers_of(self, context: RequestContext, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Renders the response headers of a context. They replace others of the same name."""
        values = context_headers(context, self.monotonic() - context.started_s)
        if self.drain.is_on:
            values["connection"] = "close"  # the next request goes elsewhere
        added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in values.items()]
        replaced = {name for name, _ in added}
        return [header for header in headers if header[0] not in replaced] + added


class PublicCors(CORSMiddleware):
    """Enables CORS on every response but those of operators' paths and ports, also on errors and unknown paths.

    Pages may read all response headers: none holds a secret, and credentials are never allowed.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str], own_ports: Iterable[int]) -> None:
        super().__init__(
            app,
            tuple(origins),
            ("GET", "POST", "PATCH", "DELETE"),
            ("*",),
            allow_private_network=True,
            expose_headers=("*",),
        )
        self._own_ports = frozenset(own_ports)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_public = scope["type"] == "http" and not (
            is_operators(scope["path"]) or (scope.get("server") or ("", None))[1] in self._own_ports
        )
        if is_public and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Renders a refused preflight as an API error."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = GatewayError(
            ErrorCode.PREFLIGHT_REFUSED, f"The preflight was refused: {bytes(response.body).decode()}."
        )
        refused = ("content-", "access-control-allow-private-")
        headers = {name: value for name, value in response.headers.items() if not name.startswith(refused)}
        return Response(render_error(error), error.row.status, headers, "application/json")


@dataclass(frozen=True, slots=True, repr=False)
class ErrorMiddleware:
    """Converts exceptions of a route into a response, or into the body of one that has sent only blanks.

    Any other response that has begun is aborted.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            context_of(request).detail = "the client disconnected before its request was complete"
        except asyncio.CancelledError:
            context = context_of(request)
            if not context.status or context.is_padded:  # a retry is safe if no call was sent upstream
                error_code = ErrorCode.INTERNAL if context.trace.attempts else ErrorCode.SHUTTING_DOWN
                response = render_failure(request, GatewayError(error_code, "aborted by the shutdown"))
                await _respond(response, scope, receive, send)
            raise
        except Exception as failure:
            response = render_failure(request, failure)
            detach(failure)  # its traceback would keep the request's objects alive
            context = context_of(request)
            if context.status and not context.is_padded:
                raise
            await _respond(response, scope, receive, send)


async def _respond(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a response, or only its body if blanks have been sent."""
    if context_of(Request(scope)).is_padded:
        await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
    else:
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class DedicatedPort:
    """A port for operators: the path prefixes that only it serves, and its host names."""

    number: int
    prefixes: tuple[str, ...]
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True, repr=False)
class DedicatedPortMiddleware:
    """Serves operators' routes only on their ports and in their unencoded form, and checks the Host header there.

    A proxy that denies `/admin/` may compare undecoded paths. So an operators' path with an encoded slash, or with an
    encoded character that needs no encoding, gets 404.
    """

    app: ASGIApp
    own: Sequence[DedicatedPort]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: HTTPException 404, GatewayError HOST_NOT_ALLOWED."""
        if scope["type"] == "http":
            path, (_, port) = scope["path"], scope.get("server") or ("", None)  # None on a unix socket
            if is_operators(path) and _OTHER_SPELLING.search(scope["raw_path"]):
                raise HTTPException(404)
            dedicated = next((candidate for candidate in self.own if candidate.number == port), None)
            if dedicated is None:
                if any(path.startswith(candidate.prefixes) for candidate in self.own):
                    raise HTTPException(404)
            elif not _is_allowed_host(dedicated, scope):
                raise GatewayError(ErrorCode.HOST_NOT_ALLOWED)
            elif not path.startswith(dedicated.prefixes) and path not in _ON_EVERY_PORT:
                raise HTTPException(404)
        await self.app(scope, receive, send)


def _is_allowed_host(port: DedicatedPort, scope: Scope) -> bool:
    """Returns whether the Host header rules out DNS rebinding, which needs a name that an attacker controls.

    On loopback, only loopback addresses are accepted.
    """
    host_header = Headers(scope=scope).get("host", "localhost")
    host = host_header[1:].partition("]")[0] if host_header.startswith("[") else host_header.partition(":")[0]
    if host.lower() in port.hosts | {"localhost"}:
        return True
    try:
        return ip_address(host).is_loopback or not ip_address(scope["server"][0]).is_loopback
    except ValueError:
        return False
