"""Renders every failed request, in the format of its route."""

import math
import re
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import minimax, openai
from gateway.api.bodies import context_of
from gateway.api.decoding import CODINGS
from gateway.domain.errors import ErrorCode, GatewayError

_LOG = structlog.get_logger("imagegate.errors")
_RETRY_AFTER_MAX_S: Final = 60
"""SDKs ignore or misread larger values (reference/openai-images.md 6.3)."""
_PARAM: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_OTHER_PARAM: Final = "?"
"""Logged instead of a field name of another form, which may be a URL or private text."""
_TOO_MANY: Final = 429
"""The detail of a 429 names the limit, and holds no text of the caller."""
_STATUS_ERRORS: Final = {404: ErrorCode.UNKNOWN_ROUTE, 405: ErrorCode.METHOD_NOT_ALLOWED}


def record_error(request: Request, error: GatewayError) -> None:
    """Records an error in the request's context."""
    context = context_of(request)
    context.error_code = error.error_code
    context.param = (error.param if _PARAM.fullmatch(error.param) else _OTHER_PARAM) if error.param else ""
    holds_caller_text = error.row.shows_detail and error.row.status != _TOO_MANY
    context.detail = "" if holds_caller_text else error.detail
    context.rates = error.rates or context.rates


def render_failure(request: Request, failure: Exception) -> Response:
    """Renders the response to a failed request, and records the error in its context."""
    headers: dict[str, str] = {}
    if isinstance(failure, GatewayError):
        error = failure
    elif isinstance(failure, HTTPException) and failure.status_code in _STATUS_ERRORS:
        headers.update(failure.headers or {})  # the router's `Allow` of a 405
        text = "Invalid URL" if failure.status_code == 404 else "Not allowed method for this URL"
        target = f"({request.method} {request.url.path[:200]})"
        error = GatewayError(_STATUS_ERRORS[failure.status_code], f"{text} {target}.")
    else:
        _LOG.exception("internal_error", exc_info=failure)
        error = GatewayError(ErrorCode.INTERNAL, type(failure).__name__)
    record_error(request, error)
    if error.row.sends_retry_after:  # a wait helps
        wait_s = error.row.retry_after_s if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(min(max(math.ceil(wait_s), 1), _RETRY_AFTER_MAX_S))
    if not error.row.may_client_retry:  # a retry cannot help, or could bill again
        headers["x-should-retry"] = "false"
    if error.error_code is ErrorCode.UNSUPPORTED_CONTENT_TYPE:
        headers["accept-encoding"] = ", ".join(CODINGS)  # RFC 9110 section 12.5.3
    if request.method == "POST" and request.url.path in minimax.PATHS:
        return Response(minimax.render_native_error(error), 200, headers, "application/json")
    if error.row.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = openai.render_error(error, context_of(request).model_name)
    return Response(body, error.row.status, headers, "application/json")
