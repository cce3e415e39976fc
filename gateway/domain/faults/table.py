"""The table: one row a fault (reference/minimax.md section 3, reference/openai-images.md section 5)."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from gateway.domain.faults.kinds import Fault, Lowers, Outcome, Pause, Retry, Row, Scope, State

_REQUEST: Final = "invalid_request_error"
_RATE: Final = "rate_limit_error"
_SERVER: Final = "server_error"


def _caller(status: int, code: str | None, message: str, *, param: str | None = None) -> Row:
    """A fault of the request that the gateway itself found: nothing was sent."""
    return Row(status, _REQUEST, code, message, param=param, shows_detail=True)


def _content(code: str, message: str, *, param: str | None = "prompt", status: int = 400) -> Row:
    """The upstream refused what the caller asked: no key is to blame, no other key would help."""
    return Row(status, _REQUEST, code, message, Outcome.REFUSED, param=param)


def _busy(pause_s: int, pause_max_s: int, lowers: Lowers = Lowers.NOTHING) -> Row:
    """The account is fine but busy: cool it and use another account."""
    return Row(
        429,
        _RATE,
        "rate_limit_exceeded",
        "The image service is at its rate limit. Please try again shortly.",
        Outcome.REFUSED,
        Retry.FREELY,
        Scope.ACCOUNT,
        Pause.SECONDS,
        pause_s,
        pause_max_s,
        State.COOLING,
        retry_after_s=pause_s,
        lowers=lowers,
    )


def _spent(scope: Scope, pause: Pause, pause_s: int = 0) -> Row:
    """A quota window is used up: cool until the window ends."""
    return _unavailable(scope, pause, pause_s, State.COOLING)


def _unavailable(scope: Scope, pause: Pause, pause_s: int, state: State) -> Row:
    """The organisation's own credential is at fault: the caller sees another key's picture, or 503."""
    return Row(
        503,
        _SERVER,
        "upstream_unavailable",
        "The image service is not available at the moment.",
        Outcome.REFUSED,
        Retry.FREELY,
        scope,
        pause,
        pause_s,
        state=state,
        retry_after_s=60,
    )


def _bare(status: int, code: str, scope: Scope, *, asks_page: bool = False, delay_s: float = 0.0) -> Row:
    """Refused without the provider's own error code: try another key, and blame none."""
    return Row(
        status,
        _RATE if status == 429 else _SERVER,
        code,
        "The image service refused the request without giving a reason.",
        Outcome.REFUSED,
        Retry.FREELY,
        scope,
        is_bare=True,
        asks_page=asks_page,
        delay_s=delay_s,
    )


def _upstream(status: int, code: str, message: str, outcome: Outcome, retry: Retry = Retry.NEVER) -> Row:
    return Row(status, _SERVER, code, message, outcome, retry, Scope.KEY, ails_upstream=True)


_DEAD_PAUSE_S: Final = 15 * 60
"""A dead or broke key is tried again after this long: inside the 10 to 30 minutes of reference/minimax.md section 3."""
_PLAN_WINDOW_S: Final = 5 * 60 * 60
"""MiniMax's plan window (code 2056): five hours."""
_HOUR_S: Final = 60 * 60
_RATE_LIMITED_DELAY_S: Final = 1.0
"""A bare 429 slows down the request that met it, and no other."""
_UNKNOWN_OUTCOME: Final = "It may have been processed, so it was not sent again."

TABLE: Final[Mapping[Fault, Row]] = MappingProxyType(
    {
        Fault.INVALID_JSON: _caller(400, None, "We could not parse the JSON body of your request."),
        Fault.UNSUPPORTED_CONTENT_TYPE: _caller(400, "unsupported_content_type", "Send 'application/json'."),
        Fault.PREFLIGHT_REFUSED: _caller(400, "preflight_refused", "The browser's preflight request was refused."),
        Fault.MALFORMED_HTTP: _caller(400, None, "This is not a valid HTTP request."),
        Fault.HEAD_TOO_LARGE: _caller(431, "headers_too_large", "The request's headers are too large."),
        Fault.BODY_TOO_LARGE: _caller(413, "request_too_large", "The request body is too large."),
        Fault.BODY_TIMEOUT: _caller(408, "request_timeout", "The request body did not arrive in time."),
        Fault.MISSING_PARAMETER: _caller(400, "missing_required_parameter", "A required parameter is missing."),
        Fault.UNKNOWN_PARAMETER: _caller(400, "unknown_parameter", "Unknown parameter."),
        Fault.INVALID_TYPE: _caller(400, "invalid_type", "A parameter has the wrong type."),
        Fault.INVALID_VALUE: _caller(400, "invalid_value", "A parameter has a value that is not supported."),
        Fault.INTEGER_BELOW_MIN: _caller(400, "integer_below_min_value", "An integer is too small."),
        Fault.INTEGER_ABOVE_MAX: _caller(400, "integer_above_max_value", "An integer is too large."),
        Fault.STRING_TOO_LONG: _caller(400, "string_above_max_length", "A string is too long."),
        Fault.EMPTY_STRING: _caller(400, "empty_string", "A string is empty."),
        Fault.MODEL_UNKNOWN: _caller(400, "model_not_found", "The model does not exist.", param="model"),
        Fault.MODEL_NOT_FOUND: _caller(404, "model_not_found", "The model does not exist.", param="model"),
        Fault.NO_CREDENTIALS: _caller(401, None, "You did not provide an API key."),
        Fault.INVALID_API_KEY: _caller(401, "invalid_api_key", "Incorrect API key provided."),
        Fault.AUTHENTICATION_THROTTLED: Row(
            429,
            _RATE,
            "rate_limit_exceeded",
            "Too many requests with wrong keys came from this address. Please try again later.",
        ),
        Fault.REQUESTS_THROTTLED: Row(
            429,
            _RATE,
            "rate_limit_exceeded",
            "Too many requests with this key within a second.",
            shows_detail=True,
        ),
        Fault.ROUTE_UNKNOWN: _caller(404, "unknown_url", "Invalid URL."),
        Fault.HOST_NOT_ALLOWED: _caller(
            421,
            "host_not_allowed",
            "This port does not answer to that Host header. Use its address or localhost, or add the name to "
            "allowed_hosts in [admin] or [metrics].",
        ),
        Fault.METHOD_NOT_ALLOWED: _caller(405, "method_not_allowed", "This method is not allowed here."),
        Fault.ADMIN_CLOSED: _caller(
            403, "admin_closed", "The admin API is closed: no admin key is configured ([admin] key)."
        ),
        Fault.ADMIN_UNAUTHORIZED: _caller(401, "invalid_admin_key", "A valid admin key is required."),
        Fault.ADMIN_READ_ONLY: _caller(403, "admin_read_only", "This admin key may read and not change anything."),
        Fault.NOT_FOUND: _caller(404, "not_found", "There is nothing of that name."),
        Fault.CONFLICT: _caller(409, "already_exists", "It exists already."),
        Fault.CHANGE_NOT_MADE: Row(
            503,
            _SERVER,
            "gateway_unavailable",
            "Redis is not available. The change was not carried out; try again.",
            retry_after_s=5,
        ),
        Fault.CHANGE_UNCONFIRMED: Row(
            504,
            _SERVER,
            "change_unconfirmed",
            "Redis did not confirm the change, which may have been carried out. Before you repeat it, look for it with "
            "`imagegate audit` or GET /admin/v1/audit: an entry has the x-request-id of its request. A secret that was "
            "not shown is lost: rotate or revoke its key.",
            Outcome.UNKNOWN,
        ),
        Fault.RATE_LIMITED: Row(
            429, _RATE, "rate_limit_exceeded", "A rate limit of this tenant is reached.", shows_detail=True
        ),
        Fault.RATE_EXCEEDED_BY_ONE: Row(
            429,
            _RATE,
            "rate_limit_exceeded",
            "This request alone asks for more than a rate limit of this tenant allows.",
            shows_detail=True,
            retry_after_s=60,
            is_final=True,
        ),
        Fault.QUOTA_EXHAUSTED: Row(
            429,
            "insufficient_quota",
            "insufficient_quota",
            "A quota of this tenant is used up.",
            shows_detail=True,
            retry_after_s=60,
            is_final=True,
        ),
        Fault.CONTENT_INPUT: _content(
            "content_policy_violation", "Your request was rejected: the prompt was judged unsafe by the safety system."
        ),
        Fault.CONTENT_OUTPUT: _content(
            "content_policy_violation",
            "Your request was rejected: the generated images were judged unsafe by the safety system.",
        ),
        Fault.CONTENT_WITHHELD: replace(
            _content(
                "content_policy_violation", "Your request was rejected: all images were withheld by the safety system."
            ),
            withholds_images=True,
        ),
        Fault.PROMPT_UNREADABLE: _content(
            "invalid_prompt", "The prompt holds too many invisible or unreadable characters."
        ),
        Fault.PROMPT_TOO_LONG: _content("string_above_max_length", "The prompt is too long for this model."),
        Fault.UPSTREAM_REJECTED: _content(
            "invalid_value", "The image service does not accept the parameters of this request.", param=None
        ),
        Fault.UPSTREAM_BODY_TOO_LARGE: _content(
            "request_too_large", "The request is too large for the image service.", param=None, status=413
        ),
        Fault.REQUEST_BLOCKED: _content(
            "request_blocked",
            "The image service refuses this request with every key, without giving a reason. Its gateway or firewall "
            "probably blocks the prompt or a parameter: change them.",
            param=None,
        ),
        Fault.BARE_UNAUTHORIZED: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        Fault.BARE_PAYMENT_REQUIRED: _bare(503, "upstream_unavailable", Scope.ACCOUNT, asks_page=True),
        Fault.BARE_FORBIDDEN: _bare(503, "upstream_unavailable", Scope.KEY, asks_page=True),
        Fault.BARE_RATE_LIMITED: _bare(429, "rate_limit_exceeded", Scope.ACCOUNT, delay_s=_RATE_LIMITED_DELAY_S),
        Fault.BARE_REFUSAL: _bare(502, "upstream_error", Scope.KEY),
        Fault.MODEL_DENIED_IN_TEXT: _bare(503, "upstream_unavailable", Scope.ACCOUNT),
        Fault.KEY_INVALID: _unavailable(Scope.KEY, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_UNVERIFIED: _unavailable(Scope.ACCOUNT, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_MODEL_DENIED: _unavailable(Scope.MODEL, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.EGRESS_DENIED: _unavailable(Scope.UPSTREAM, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.BALANCE_EMPTY: _unavailable(Scope.ACCOUNT, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.KEY_LIMIT_REACHED: _unavailable(Scope.KEY, Pause.SECONDS, _DEAD_PAUSE_S, State.QUARANTINED),
        Fault.ACCOUNT_RATE_LIMITED: _busy(15, 60, Lowers.RATE),
        Fault.ACCOUNT_TOKEN_LIMITED: _busy(60, 0),
        Fault.ACCOUNT_CONNECTION_LIMITED: _busy(10, 15, Lowers.CONCURRENCY),
        Fault.ACCOUNT_GROWTH_LIMITED: _busy(20, 30, Lowers.GROWTH),
        Fault.WINDOW_SPENT: _spent(Scope.ACCOUNT, Pause.SECONDS, _PLAN_WINDOW_S),
        Fault.DAY_SPENT: _spent(Scope.ACCOUNT, Pause.DAY_END),
        Fault.KEY_HOUR_SPENT: _spent(Scope.KEY, Pause.SECONDS, _HOUR_S),
        Fault.KEY_DAY_SPENT: _spent(Scope.KEY, Pause.DAY_END),
        Fault.KEY_MONTH_SPENT: _spent(Scope.KEY, Pause.MONTH_END),
        Fault.UPSTREAM_ERROR: _upstream(
            502, "upstream_error", "The image service failed to process the request.", Outcome.REFUSED, Retry.ONCE
        ),
        Fault.UPSTREAM_MISPLACED: _upstream(
            502, "upstream_error", "The image service gave an unexpected answer.", Outcome.REFUSED
        ),
        Fault.UPSTREAM_NO_CHANNEL: Row(
            503,
            _SERVER,
            "upstream_unavailable",
            "The image service is not available at the moment.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
            Pause.SECONDS,
            30,
            60,
            State.COOLING,
            retry_after_s=30,
        ),
        Fault.UPSTREAM_UNSUPPORTED: Row(
            502,
            _SERVER,
            "upstream_error",
            "The image service does not offer this function.",
            Outcome.REFUSED,
            Retry.FREELY,
            Scope.UPSTREAM,
        ),
        Fault.UPSTREAM_EMPTY: _upstream(
            502, "upstream_error", "The image service answered without images.", Outcome.REFUSED, Retry.ONCE
        ),
        Fault.UPSTREAM_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service timed out. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.CONNECT_FAILED: Row(
            503,
            _SERVER,
            "upstream_unavailable",
            "The image service cannot be reached at the moment.",
            Outcome.NOT_SENT,
            Retry.ONCE,
            Scope.UPSTREAM,
            ails_upstream=True,
        ),
        Fault.CALL_NOT_SENT: replace(
            _upstream(502, "upstream_error", "The request could not be sent to the image service.", Outcome.NOT_SENT),
            ails_upstream=False,
        ),
        Fault.READ_TIMEOUT: _upstream(
            504, "upstream_timeout", f"The image service did not answer in time. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_LOST: _upstream(
            502, "upstream_error", f"The connection to the image service broke. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_UNREADABLE: _upstream(
            502, "upstream_error", f"The image service's answer is unreadable. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.ANSWER_TOO_LARGE: _upstream(
            502, "upstream_error", f"The image service's answer is too large. {_UNKNOWN_OUTCOME}", Outcome.UNKNOWN
        ),
        Fault.RESULT_LOST: replace(
            _upstream(
                502,
                "upstream_error",
                "The images were made but could not be fetched from their links.",
                Outcome.DELIVERED,
            ),
            ails_upstream=False,
        ),
        Fault.POOL_BUSY: Row(
            429,
            _RATE,
            "rate_limit_exceeded",
            "The image service is at its rate limit. Please try again shortly.",
            shows_detail=True,
        ),
        Fault.POOL_DOWN: Row(
            503,
            _SERVER,
            "no_upstream_available",
            "No image service is available at the moment.",
            retry_after_s=60,
        ),
        Fault.DEADLINE: Row(
            504, _SERVER, "deadline_exceeded", "The request's deadline passed before it could be sent."
        ),
        Fault.CLIENT_LEFT: _caller(
            499, "client_closed_request", "The client left before its request was sent to the image service."
        ),
        Fault.TICKET_EXPIRED: Row(
            503,
            _SERVER,
            "gateway_unavailable",
            "The gateway was held up for so long that the request was given up before it was sent.",
            retry_after_s=1,
        ),
        Fault.TENANT_MEMORY_FULL: Row(
            429, _RATE, "rate_limit_exceeded", "This tenant's requests hold its share of memory.", retry_after_s=2
        ),
        Fault.MEMORY_FULL: Row(
            503, _SERVER, "gateway_unavailable", "The gateway has no memory left for a request.", retry_after_s=2
        ),
        Fault.REDIS_AWAY: Row(
            503, _SERVER, "gateway_unavailable", "The gateway is not available at the moment.", retry_after_s=5
        ),
        Fault.SHUTTING_DOWN: Row(503, _SERVER, "gateway_unavailable", "The gateway is shutting down.", retry_after_s=5),
        Fault.INTERNAL: Row(
            500, _SERVER, "internal_error", "The gateway failed to process the request.", Outcome.UNKNOWN
        ),
    }
)
