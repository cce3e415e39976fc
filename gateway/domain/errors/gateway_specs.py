"""Rows of the errors that the gateway detects without an upstream (reference/openai-images.md section 5)."""

from collections.abc import Mapping
from typing import Final

from gateway.domain.errors.codes import RATE, REQUEST, SERVER, ErrorCode, ErrorSpec, Outcome


def _caller(status: int, code: str | None, message: str, *, param: str | None = None) -> ErrorSpec:
    """An error in the request, detected by the gateway: nothing was sent upstream."""
    return ErrorSpec(status, REQUEST, code, message, param=param, shows_detail=True)


OF_REQUESTS: Final[Mapping[ErrorCode, ErrorSpec]] = {
    ErrorCode.INVALID_JSON: _caller(400, None, "We could not parse the JSON body of your request."),
    ErrorCode.UNSUPPORTED_CONTENT_TYPE: _caller(
        400, "unsupported_content_type", "Unsupported content type. Send 'application/json'."
    ),
    ErrorCode.PREFLIGHT_REFUSED: _caller(400, "preflight_refused", "The browser's preflight request was refused."),
    ErrorCode.MALFORMED_HTTP: _caller(400, None, "The request is not valid HTTP."),
    ErrorCode.HEADERS_TOO_LARGE: _caller(431, "headers_too_large", "The request's headers are too large."),
    ErrorCode.BODY_TOO_LARGE: _caller(413, "request_too_large", "The request body is too large."),
    ErrorCode.BODY_TIMEOUT: _caller(408, "request_timeout", "The request body did not arrive in time."),
    ErrorCode.MISSING_PARAMETER: _caller(400, "missing_required_parameter", "A required parameter is missing."),
    ErrorCode.UNKNOWN_PARAMETER: _caller(400, "unknown_parameter", "Unknown parameter."),
    ErrorCode.INVALID_TYPE: _caller(400, "invalid_type", "A parameter has the wrong type."),
    ErrorCode.INVALID_VALUE: _caller(400, "invalid_value", "A parameter has a value that is not supported."),
    ErrorCode.INTEGER_BELOW_MIN: _caller(400, "integer_below_min_value", "An integer is too small."),
    ErrorCode.INTEGER_ABOVE_MAX: _caller(400, "integer_above_max_value", "An integer is too large."),
    ErrorCode.STRING_TOO_LONG: _caller(400, "string_above_max_length", "A string is too long."),
    ErrorCode.EMPTY_STRING: _caller(400, "empty_string", "A string is empty."),
    ErrorCode.MODEL_UNKNOWN: _caller(400, "model_not_found", "The model does not exist.", param="model"),
    ErrorCode.MODEL_NOT_FOUND: _caller(404, "model_not_found", "The model does not exist.", param="model"),
    ErrorCode.NO_CREDENTIALS: _caller(401, None, "You did not provide an API key."),
    ErrorCode.INVALID_API_KEY: _caller(401, "invalid_api_key", "Incorrect API key provided."),
    ErrorCode.AUTHENTICATION_THROTTLED: ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "Too many failed authentication attempts from this address. Please try again later.",
    ),
    ErrorCode.REQUESTS_THROTTLED: ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "Too many requests with this key. Please try again in 1 s.",
        shows_detail=True,
    ),
    ErrorCode.UNKNOWN_ROUTE: _caller(404, "unknown_url", "Invalid URL."),
    ErrorCode.HOST_NOT_ALLOWED: _caller(
        421,
        "host_not_allowed",
        "The Host header is not allowed on this port. Use its address or localhost, or add the name to "
        "allowed_hosts in [admin] or [metrics].",
    ),
    ErrorCode.METHOD_NOT_ALLOWED: _caller(405, "method_not_allowed", "This method is not allowed here."),
    ErrorCode.ADMIN_API_DISABLED: _caller(
        403, "admin_api_disabled", "The admin API is disabled: no admin key is configured. Set [admin] key."
    ),
    ErrorCode.ADMIN_UNAUTHORIZED: _caller(401, "invalid_admin_key", "A valid admin key is required."),
    ErrorCode.ADMIN_READ_ONLY: _caller(403, "admin_read_only", "This admin key is read-only."),
    ErrorCode.NOT_FOUND: _caller(404, "not_found", "Not found."),
    ErrorCode.CONFLICT: _caller(409, "already_exists", "Already exists."),
    ErrorCode.CHANGE_NOT_MADE: ErrorSpec(
        503,
        SERVER,
        "gateway_unavailable",
        "Redis is unavailable. The change was not made. Try again.",
        retry_after_s=5,
    ),
    ErrorCode.CHANGE_UNCONFIRMED: ErrorSpec(
        504,
        SERVER,
        "change_unconfirmed",
        "Redis did not confirm the change, which may have been made. Before you repeat it, search for it with "
        "`imagegate audit` or GET /admin/v1/audit: each entry has the x-request-id of its request. A secret that was "
        "not shown is lost: rotate or revoke its key.",
        Outcome.UNKNOWN,
    ),
    ErrorCode.RATE_LIMITED: ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "A rate limit of this tenant is reached. Please try again later.",
        shows_detail=True,
    ),
    ErrorCode.REQUEST_EXCEEDS_LIMIT: ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "This request alone exceeds a rate limit of this tenant. Request fewer images.",
        shows_detail=True,
        retry_after_s=60,
        is_permanent=True,
    ),
    ErrorCode.QUOTA_EXHAUSTED: ErrorSpec(
        429,
        "insufficient_quota",
        "insufficient_quota",
        "A quota of this tenant is used up.",
        shows_detail=True,
        retry_after_s=60,
        is_permanent=True,
    ),
}
"""Errors in a request, or limits that it exceeds."""

OF_GATEWAY: Final[Mapping[ErrorCode, ErrorSpec]] = {
    ErrorCode.NO_CAPACITY: ErrorSpec(
        429,
        RATE,
        "rate_limit_exceeded",
        "The image service is at its rate limit. Please try again shortly.",
        shows_detail=True,
    ),
    ErrorCode.NO_HEALTHY_ACCOUNT: ErrorSpec(
        503,
        SERVER,
        "no_upstream_available",
        "No image service is available. Please try again later.",
        retry_after_s=60,
    ),
    ErrorCode.DEADLINE: ErrorSpec(
        504, SERVER, "deadline_exceeded", "The request's deadline passed before it could be sent."
    ),
    ErrorCode.CLIENT_DISCONNECTED: _caller(
        499, "client_closed_request", "The client disconnected before the request was sent upstream."
    ),
    ErrorCode.RESERVATION_EXPIRED: ErrorSpec(
        503,
        SERVER,
        "gateway_unavailable",
        "The reservation expired before the request was sent. It was not charged; retry it.",
        retry_after_s=1,
    ),
    ErrorCode.TENANT_MEMORY_FULL: ErrorSpec(
        429, RATE, "rate_limit_exceeded", "This tenant's in-flight requests use its share of memory.", retry_after_s=2
    ),
    ErrorCode.MEMORY_FULL: ErrorSpec(
        503, SERVER, "gateway_unavailable", "The gateway has no memory left for this request.", retry_after_s=2
    ),
    ErrorCode.REDIS_UNAVAILABLE: ErrorSpec(
        503, SERVER, "gateway_unavailable", "The gateway is temporarily unavailable.", retry_after_s=5
    ),
    ErrorCode.SHUTTING_DOWN: ErrorSpec(
        503, SERVER, "gateway_unavailable", "The gateway is shutting down.", retry_after_s=5
    ),
    ErrorCode.INTERNAL: ErrorSpec(
        500, SERVER, "internal_error", "The gateway failed to process the request.", Outcome.UNKNOWN
    ),
}
"""Reasons for which the gateway cannot serve a request."""
