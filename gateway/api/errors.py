"""Renders every failed request, in the format of its route."""

import asyncio
import math
import re
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import minimax, openai
from gateway.api.request_context import context_of
from gateway.domain.errors import ErrorCode, GatewayError, detach

_LOG = structlog.get_logger("imagegate.errors")
_RETRY_AFTER_MAX_S: Final = 60
"""SDKs ignore or misread larger values (reference/openai-images.md 6.3)."""
_PARAM: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_OTHER_PARAM: Final = "?"
"""Logged instead of a field name of another form, which may be a URL or private text."""
_TOO_MANY: Final = 429
"""The detail of a 429 names the limit, and holds no text of the caller."""
_STATUS_ERRORS: Final = {404: ErrorCode.UNKNOWN_ROUTE, 405: ErrorCode.METHOD_NOT_ALLOWED}


class ErrorMiddleware:
    """Converts exceptions of a route into a response. A response that has begun is aborted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        request = Request(scope)
        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            context_of(request).detail = "the client disconnected before its request was complete"
        except asyncio.CancelledError:
            if not has_started:
                await _render_response(request, _shutdown_error(request), {})(scope, receive, send)
            raise
        except Exception as failure:
            response = _render_response(request, _as_gateway_error(request, failure), _allow(failure))
            detach(failure)  # its traceback would keep the request's objects alive
            if has_started:
                raise
            await response(scope, receive, send)


def record_error(request: Request, error: GatewayError) -> None:
    """Records an error in the request's context."""
    context = context_of(request)
    context.error_code = error.error_code
    context.param = (error.param if _PARAM.fullmatch(error.param) else _OTHER_PARAM) if error.param else ""
    holds_caller_text = error.row.shows_detail and error.row.status != _TOO_MANY
    context.detail = "" if holds_caller_text else error.detail
    context.rates = error.rates or context.rates


def error_headers(error: GatewayError) -> dict[str, str]:
    """Renders `retry-after` if waiting helps, `x-should-retry: false` if a retry cannot help or could bill again."""
    headers: dict[str, str] = {}
    if error.row.sends_retry_after:
        wait_s = error.row.retry_after_s if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(min(max(math.ceil(wait_s), 1), _RETRY_AFTER_MAX_S))
    if not error.row.may_client_retry:
        headers["x-should-retry"] = "false"
    return headers


def _shutdown_error(request: Request) -> GatewayError:
    """Builds the error of a request that the shutdown aborts. If no call was sent upstream, a retry is safe."""
    was_sent = context_of(request).trace.attempts > 0
    return GatewayError(ErrorCode.INTERNAL if was_sent else ErrorCode.SHUTTING_DOWN, "aborted by the shutdown")


def _as_gateway_error(request: Request, failure: Exception) -> GatewayError:
    match failure:
        case GatewayError():
            return failure
        case HTTPException(status_code=status) if status in _STATUS_ERRORS:
            target = f"{request.method} {request.url.path[:200]}"
            text = f"Invalid URL ({target})." if status == 404 else f"Not allowed method for this URL ({target})."
            return GatewayError(_STATUS_ERRORS[status], text)
        case _:
            _LOG.exception("internal_error", exc_info=failure)
            return GatewayError(ErrorCode.INTERNAL, type(failure).__name__)


def _allow(failure: Exception) -> dict[str, str]:
    """Returns the router's `Allow` header of a 405."""
    return dict(failure.headers or {}) if isinstance(failure, HTTPException) else {}


def _render_response(request: Request, error: GatewayError, headers: dict[str, str]) -> Response:
    """Renders the response to a failed request, and records the error in its context."""
    record_error(request, error)
    headers |= error_headers(error)
    if request.method == "POST" and request.url.path in minimax.PATHS:
        return Response(minimax.render_native_error(error), 200, headers, "application/json")
    if error.row.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = openai.render_error(error, context_of(request).model_name)
    return Response(body, error.row.status, headers, "application/json")
