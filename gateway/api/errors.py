"""Renders every failed request, in the format of its route."""

import re
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.api import minimax, openai_responses
from gateway.api.bodies import context_of
from gateway.api.decoding import CODINGS
from gateway.domain.errors import ErrorCode, GatewayError

_LOG = structlog.get_logger("imagegate.errors")
_PATH_MAX_CHARS: Final = 200
_PARAM: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_OTHER_PARAM: Final = "?"
"""Logged instead of a field name of another form, which may be a URL or private text."""
_TOO_MANY: Final = 429
"""The detail of a 429 names the limit, and holds no text of the caller."""
_OFFERED: Final = "use POST /v1/images/generations or POST /v1/images/edits. GET /v1/models lists its models."
IMAGES_ONLY: Final = f"This server makes images: {_OFFERED}"
_NO_CHAT: Final = f"This server makes images and has no chat models: {_OFFERED}"
NOT_OFFERED: Final = {
    "/v1/images/variations": (
        ErrorCode.UNKNOWN_ROUTE,
        "This server makes no variations: use POST /v1/images/edits or POST /v1/images/generations.",
    ),
    # 400, because LangChain reads every 404 as an unknown model, and LiteLLM pauses the deployment after one.
    "/v1/chat/completions": (ErrorCode.INVALID_VALUE, _NO_CHAT),
    "/v1/responses": (ErrorCode.INVALID_VALUE, _NO_CHAT),
}
"""OpenAI's other ways to an image, with the error of each."""


def record_error(request: Request, error: GatewayError) -> None:
    """Records an error in the request's context."""
    context = context_of(request)
    context.error_code = error.error_code
    context.param = (error.param if _PARAM.fullmatch(error.param) else _OTHER_PARAM) if error.param else ""
    holds_caller_text = error.row.shows_detail and error.row.status != _TOO_MANY
    context.detail = "" if holds_caller_text else error.detail
    context.rates = error.rates or context.rates


def unknown_route(scope: Scope, suggestion: str = "") -> GatewayError:
    """Returns the error of a path without a route. `suggestion` is a sentence for the client."""
    return GatewayError(ErrorCode.UNKNOWN_ROUTE, f"Invalid URL {_target(scope)}. {suggestion.strip()}".rstrip())


def _target(scope: Scope) -> str:
    return f"({scope['method']} {scope['path'][:_PATH_MAX_CHARS]})"


async def refuse_operation(request: Request) -> Response:
    """Serves a route of `NOT_OFFERED`, whatever the key and the body are. Raises: GatewayError."""
    raise GatewayError(*NOT_OFFERED[request.url.path])


def render_failure(request: Request, failure: Exception) -> Response:
    """Renders the response to a failed request, and records the error in its context."""
    headers: dict[str, str] = {}
    if isinstance(failure, GatewayError):
        error = failure
    elif isinstance(failure, HTTPException) and failure.status_code == 404:
        error = unknown_route(request.scope)
    elif isinstance(failure, HTTPException) and failure.status_code == 405:
        headers.update(failure.headers or {})  # the router's `Allow`
        error = GatewayError(ErrorCode.METHOD_NOT_ALLOWED, f"Not allowed method for this URL {_target(request.scope)}.")
    else:
        _LOG.exception("internal_error", exc_info=failure)
        error = GatewayError(ErrorCode.INTERNAL, type(failure).__name__)
    record_error(request, error)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if not error.row.may_client_retry:  # a retry cannot help, or could bill again
        headers["x-should-retry"] = "false"
    if error.error_code is ErrorCode.UNSUPPORTED_CONTENT_TYPE:
        headers["accept-encoding"] = ", ".join(CODINGS)  # RFC 9110 section 12.5.3
    if request.method == "POST" and request.url.path in minimax.PATHS:
        return Response(minimax.render_native_error(error), 200, headers, "application/json")
    if error.row.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = openai_responses.render_error(error, context_of(request).model_name)
    return Response(body, error.row.status, headers, "application/json")
