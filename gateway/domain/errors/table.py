"""The error table, one row per code (reference/minimax.md section 3, reference/openai-images.md section 5)."""

from dataclasses import replace
from enum import Enum
from types import MappingProxyType
from typing import Final, Self

from gateway.domain.errors.spec import CapacityHint, CooldownKind, ErrorSpec, KeyState, Outcome, Retry, Scope

_REQUEST, _RATE, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"
"""OpenAI's types of errors."""
_CODES = {429: "rate_limit_exceeded", 502: "upstream_error", 503: "upstream_unavailable", 504: "upstream_timeout"}
"""The `code` of an upstream's error, by status."""
_BUSY: Final = "The image service is at its rate limit. Please try again shortly."
_QUARANTINE_S: Final = 15 * 60
"""Seconds after which a rejected key is tried again: within 10 to 30 minutes (reference/minimax.md section 3)."""

_Row = tuple[str, ErrorSpec]  # the value of an error code, and its consequences


def _caller(label: str, status: int, message: str, code: str | None = "", *, param: str | None = None) -> _Row:
    """An error in the request, detected by the gateway: nothing was sent upstream. The default `code` is the label."""
    return label, ErrorSpec(status, _REQUEST, label if code == "" else code, message, param=param, shows_detail=True)


def _limit(label: str, message: str, retry_after_s: int = 10, *, shows_detail: bool = True) -> _Row:
    return label, ErrorSpec(429, _RATE, _CODES[429], message, shows_detail=shows_detail, retry_after_s=retry_after_s)


def _permanent_limit(label: str, kind: str, code: str, message: str) -> _Row:
    return label, ErrorSpec(429, kind, code, message, shows_detail=True, is_permanent=True)


def _gateway(
    label: str,
    message: str,
    status: int = 503,
    code: str = "gateway_unavailable",
    outcome: Outcome = Outcome.NOT_SENT,
    *,
    retry_after_s: int = 10,
) -> _Row:
    """A reason for which the gateway cannot serve a request."""
    return label, ErrorSpec(status, _SERVER, code, message, outcome, retry_after_s=retry_after_s)


def _content(label: str, message: str, code: str = "", *, param: str | None = "prompt", status: int = 400) -> _Row:
    """The upstream refused the caller's request: no key is to blame, and another key would not help."""
    return label, ErrorSpec(status, _REQUEST, code or label, message, Outcome.REFUSED, param=param)


def _unsafe(label: str, reason: str, *, withholds_images: bool = False) -> _Row:
    # LiteLLM recognises a refusal by the words before the colon.
    message = f"Your request was rejected as a result of the safety system: {reason}."
    _, spec = _content(label, message, "content_policy_violation")
    return label, replace(spec, withholds_images=withholds_images)


def _refused(status: int, message: str, scope: Scope) -> ErrorSpec:
    """The upstream refused the call for the sake of one key, account or upstream: another one may serve it."""
    kind = _RATE if status == 429 else _SERVER
    return ErrorSpec(status, kind, _CODES[status], message, Outcome.REFUSED, Retry.FREELY, scope)


def _bare(label: str, status: int, scope: Scope, *, asks_page: bool = False, delay_s: float = 0.0) -> _Row:
    """Refused without the provider's own error code: try another key, without a cooldown."""
    spec = _refused(status, "The image service refused the request without giving a reason.", scope)
    return label, replace(spec, is_bare=True, asks_page=asks_page, delay_s=delay_s)


def _cooled(
    label: str, scope: Scope, pause: CooldownKind, pause_s: int = 0, pause_max_s: int = 0, *, retry_after_s: int = 59
) -> _Row:
    """The operator's provider key cannot be used for a time: another one is tried, or the caller gets 503."""
    spec = _refused(503, "The image service is temporarily unavailable.", scope)
    spec = replace(spec, state=KeyState.COOLING, retry_after_s=retry_after_s)
    return label, replace(spec, pause=pause, pause_s=pause_s, pause_max_s=pause_max_s)


def _quarantined(label: str, scope: Scope) -> _Row:
    _, spec = _cooled(label, scope, CooldownKind.SECONDS, _QUARANTINE_S)
    return label, replace(spec, state=KeyState.QUARANTINED)


def _busy(label: str, pause_s: int, pause_max_s: int, lowers: CapacityHint = CapacityHint.NOTHING) -> _Row:
    """The account is busy: put it on cooldown and use another one."""
    _, spec = _cooled(label, Scope.ACCOUNT, CooldownKind.SECONDS, pause_s, pause_max_s, retry_after_s=pause_s)
    return label, replace(spec, status=429, type=_RATE, code=_CODES[429], message=_BUSY, lowers=lowers)


def _failed(
    label: str, status: int, message: str, outcome: Outcome, retry: Retry = Retry.NEVER, scope: Scope = Scope.KEY
) -> _Row:
    return label, ErrorSpec(status, _SERVER, _CODES[status], message, outcome, retry, scope, trips_breaker=True)


def _unjudged(label: str, message: str, outcome: Outcome) -> _Row:
    """A call failed for a reason that says nothing of the upstream's health."""
    return label, ErrorSpec(502, _SERVER, _CODES[502], message, outcome, scope=Scope.KEY)


def _unknown(label: str, status: int, message: str) -> _Row:
    return _failed(label, status, f"{message} It may have been processed, so it was not retried.", Outcome.UNKNOWN)


class ErrorCode(Enum):
    """Error codes, each with its consequences. The value is the metric label and the log field."""

    value: str
    spec: ErrorSpec

    def __new__(cls, label: str, *spec: ErrorSpec) -> Self:  # a lookup, as ErrorCode("internal"), has the label only
        code = object.__new__(cls)
        code._value_, (code.spec,) = label, spec
        return code

    # The caller's request
    INVALID_JSON = _caller("invalid_json", 400, "We could not parse the JSON body of your request.", None)
    UNSUPPORTED_CONTENT_TYPE = _caller(
        "unsupported_content_type", 415, "Unsupported content type. Send 'application/json'."
    )
    PREFLIGHT_REFUSED = _caller("preflight_refused", 400, "The browser's preflight request was refused.")
    MALFORMED_HTTP = _caller("malformed_http", 400, "The request is not valid HTTP.", None)
    HEADERS_TOO_LARGE = _caller("headers_too_large", 431, "The request's headers are too large.")
    BODY_TOO_LARGE = _caller("body_too_large", 413, "The request body is too large.", "request_too_large")
    BODY_TIMEOUT = _caller("body_timeout", 408, "The request body did not arrive in time.", "request_timeout")
    MISSING_PARAMETER = _caller("missing_required_parameter", 400, "A required parameter is missing.")
    UNKNOWN_PARAMETER = _caller("unknown_parameter", 400, "Unknown parameter.")
    INVALID_TYPE = _caller("invalid_type", 400, "A parameter has the wrong type.")
    INVALID_VALUE = _caller("invalid_value", 400, "A parameter has a value that is not supported.")
    INTEGER_BELOW_MIN = _caller("integer_below_min_value", 400, "An integer is too small.")
    INTEGER_ABOVE_MAX = _caller("integer_above_max_value", 400, "An integer is too large.")
    STRING_TOO_LONG = _caller("string_above_max_length", 400, "A string is too long.")
    EMPTY_STRING = _caller("empty_string", 400, "A string is empty.")
    MODEL_UNKNOWN = _caller("model_unknown", 400, "The model does not exist.", "model_not_found", param="model")
    MODEL_NOT_FOUND = _caller("model_not_found", 404, "The model does not exist.", param="model")
    NO_CREDENTIALS = _caller("no_credentials", 401, "You did not provide an API key.", None)
    INVALID_API_KEY = _caller("invalid_api_key", 401, "Incorrect API key provided.")
    AUTHENTICATION_THROTTLED = _limit(
        "authentication_throttled",
        "Too many failed authentication attempts from this address. Please try again later.",
        shows_detail=False,
    )
    REQUESTS_THROTTLED = _limit("requests_throttled", "Too many requests with this key. Please try again in 1 s.")
    UNKNOWN_ROUTE = _caller("unknown_route", 404, "Invalid URL.", "unknown_url")
    LINK_INVALID = _caller("link_invalid", 403, "This link is not valid. Use it as it was given, without any change.")
    LINK_EXPIRED = _caller("link_expired", 403, "This link has expired, and its image is deleted.")
    RANGE_NOT_SATISFIABLE = _caller("range_not_satisfiable", 416, "The Range header begins after the end of the file.")
    HOST_NOT_ALLOWED = _caller(
        "host_not_allowed",
        421,
        "The Host header is not allowed on this port. Use its address or localhost, or add the name to "
        "allowed_hosts in [admin] or [metrics].",
    )
    METHOD_NOT_ALLOWED = _caller("method_not_allowed", 405, "This method is not allowed here.")
    # The admin API
    ADMIN_API_DISABLED = _caller(
        "admin_api_disabled", 403, "The admin API is disabled: no admin key is configured. Set [admin] key."
    )
    ADMIN_UNAUTHORIZED = _caller("admin_unauthorized", 401, "A valid admin key is required.", "invalid_admin_key")
    ADMIN_READ_ONLY = _caller("admin_read_only", 403, "This admin key is read-only.")
    NOT_FOUND = _caller("not_found", 404, "Not found.")
    CONFLICT = _caller("conflict", 409, "Already exists.", "already_exists")
    CHANGE_NOT_MADE = _gateway(
        "change_not_made", "Redis is unavailable. The change was not made. Try again.", retry_after_s=5
    )
    CHANGE_UNCONFIRMED = _gateway(
        "change_unconfirmed",
        "Redis did not confirm the change, which may have been made. Before you repeat it, search for it with "
        "`imagegate audit` or GET /admin/v1/audit: each entry has the x-request-id of its request. A secret that was "
        "not shown is lost: rotate or revoke its key.",
        504,
        "change_unconfirmed",
        Outcome.UNKNOWN,
    )
    # Repeated requests
    IDEMPOTENCY_KEY_REUSED = _caller(
        *("idempotency_key_reused", 422, "This Idempotency-Key belongs to another request. Use a new one."),
        param="idempotency-key",
    )
    ORDER_IN_PROGRESS = _caller("order_in_progress", 409, "The same request is still in progress. Repeat it later.")
    RESULT_NOT_KEPT = _caller("result_not_kept", 409, "Paid for, but not stored. A new Idempotency-Key buys others.")
    # The tenant's limits
    RATE_LIMITED = _limit("rate_limited", "A rate limit of this tenant is reached. Please try again later.")
    REQUEST_EXCEEDS_LIMIT = _permanent_limit(
        "request_exceeds_limit",
        _RATE,
        _CODES[429],
        "This request alone exceeds a rate limit of this tenant. Request fewer images.",
    )
    QUOTA_EXHAUSTED = _permanent_limit(
        "quota_exhausted", "insufficient_quota", "insufficient_quota", "A quota of this tenant is used up."
    )
    # Refused by the upstream because of the caller's request
    CONTENT_INPUT = _unsafe("content_input", "the prompt was judged unsafe")
    CONTENT_OUTPUT = _unsafe("content_output", "the generated images were judged unsafe")
    CONTENT_MODERATED = _unsafe("content_moderated", "all images were withheld", withholds_images=True)
    INVALID_PROMPT = _content(
        "invalid_prompt", "The prompt contains too many invisible or unreadable characters. Remove them."
    )
    PROMPT_TOO_LONG = _content("prompt_too_long", "The prompt is too long for this model.", "string_above_max_length")
    UPSTREAM_REJECTED = _content(
        "upstream_rejected",
        "The image service does not accept the parameters of this request.",
        "invalid_value",
        param=None,
    )
    UPSTREAM_BODY_TOO_LARGE = _content(
        "upstream_body_too_large",
        "The request is too large for the image service.",
        "request_too_large",
        param=None,
        status=413,
    )
    REQUEST_BLOCKED = _content(
        "request_blocked",
        "The image service refuses this request with every key, without a reason. Its gateway or firewall "
        "probably blocks the prompt or a parameter. Change them and retry.",
        param=None,
    )
    # Refused without the provider's own error code: the cause may be the request, the key, or neither
    BARE_UNAUTHORIZED = _bare("bare_unauthorized", 503, Scope.KEY, asks_page=True)
    BARE_PAYMENT_REQUIRED = _bare("bare_payment_required", 503, Scope.ACCOUNT, asks_page=True)
    BARE_FORBIDDEN = _bare("bare_forbidden", 503, Scope.KEY, asks_page=True)
    BARE_RATE_LIMITED = _bare("bare_rate_limited", 429, Scope.ACCOUNT, delay_s=1.0)  # delays only this request
    BARE_REFUSAL = _bare("bare_refusal", 502, Scope.KEY)
    MODEL_DENIED_IN_TEXT = _bare("model_denied_in_text", 503, Scope.ACCOUNT)
    # A key's or an account's
    KEY_INVALID = _quarantined("key_invalid", Scope.KEY)
    ACCOUNT_UNVERIFIED = _quarantined("account_unverified", Scope.ACCOUNT)
    KEY_MODEL_DENIED = _quarantined("key_model_denied", Scope.MODEL)
    IP_DENIED = _quarantined("ip_denied", Scope.UPSTREAM)
    INSUFFICIENT_BALANCE = _quarantined("insufficient_balance", Scope.ACCOUNT)
    KEY_LIMIT_REACHED = _quarantined("key_limit_reached", Scope.KEY)
    ACCOUNT_RATE_LIMITED = _busy("account_rate_limited", 15, 60, CapacityHint.RATE)
    ACCOUNT_TOKEN_LIMITED = _busy("account_token_limited", 60, 0)
    ACCOUNT_CONNECTION_LIMITED = _busy("account_connection_limited", 10, 15, CapacityHint.CONCURRENCY)
    ACCOUNT_GROWTH_LIMITED = _busy("account_growth_limited", 20, 30, CapacityHint.GROWTH)
    QUOTA_EXHAUSTED_PLAN = _cooled("quota_exhausted_plan", Scope.ACCOUNT, CooldownKind.SECONDS, 60 * 60)
    QUOTA_EXHAUSTED_DAILY = _cooled("quota_exhausted_daily", Scope.ACCOUNT, CooldownKind.DAY_END)
    QUOTA_EXHAUSTED_KEY_HOUR = _cooled("quota_exhausted_key_hour", Scope.KEY, CooldownKind.SECONDS, 60 * 60)
    QUOTA_EXHAUSTED_KEY_DAY = _cooled("quota_exhausted_key_day", Scope.KEY, CooldownKind.DAY_END)
    QUOTA_EXHAUSTED_KEY_MONTH = _cooled("quota_exhausted_key_month", Scope.KEY, CooldownKind.MONTH_END)
    # The upstream's or the network's
    UPSTREAM_ERROR = _failed(
        "upstream_error", 502, "The image service failed to process the request.", Outcome.REFUSED, Retry.ONCE
    )
    UNEXPECTED_RESPONSE = _failed(
        "unexpected_response", 502, "The image service returned an unexpected response.", Outcome.REFUSED
    )
    MODEL_UNAVAILABLE = _cooled("model_unavailable", Scope.UPSTREAM, CooldownKind.SECONDS, 30, 60, retry_after_s=30)
    UPSTREAM_UNSUPPORTED = (
        "upstream_unsupported",
        _refused(502, "The image service does not support this operation.", Scope.UPSTREAM),
    )
    EMPTY_RESPONSE = _failed(
        "empty_response", 502, "The image service responded without images.", Outcome.REFUSED, Retry.ONCE
    )
    UPSTREAM_TIMEOUT = _unknown("upstream_timeout", 504, "The image service timed out.")
    CONNECT_FAILED = _failed(
        "connect_failed", 503, "The image service is unreachable.", Outcome.NOT_SENT, Retry.ONCE, Scope.UPSTREAM
    )
    NOT_SENT = _unjudged("not_sent", "The request could not be sent upstream.", Outcome.NOT_SENT)
    READ_TIMEOUT = _unknown("read_timeout", 504, "The image service did not respond in time.")
    CONNECTION_LOST = _unknown("connection_lost", 502, "The connection to the image service broke.")
    INVALID_RESPONSE = _unknown("invalid_response", 502, "The image service's response is invalid.")
    RESPONSE_TOO_LARGE = _unknown("response_too_large", 502, "The image service's response is too large.")
    DOWNLOAD_FAILED = _unjudged(
        "download_failed", "The images were generated but could not be downloaded.", Outcome.DELIVERED
    )
    # The gateway's own
    NO_CAPACITY = _limit("no_capacity", _BUSY)
    NO_HEALTHY_ACCOUNT = _gateway(
        "no_healthy_account",
        "No image service is available. Please try again later.",
        503,
        "no_upstream_available",
        retry_after_s=59,  # the longest wait that every SDK obeys
    )
    DEADLINE = _gateway("deadline", "The request's deadline passed before it could be sent.", 504, "deadline_exceeded")
    CLIENT_DISCONNECTED = _caller(
        "client_disconnected",
        499,
        "The client disconnected before the request was sent upstream.",
        "client_closed_request",
    )
    RESERVATION_EXPIRED = _gateway(
        "reservation_expired",
        "The reservation expired before the request was sent. It was not charged; retry it.",
        retry_after_s=1,
    )
    TENANT_MEMORY_FULL = _limit(
        "tenant_memory_full", "This tenant's in-flight requests use its share of memory.", 2, shows_detail=False
    )
    MEMORY_FULL = _gateway("memory_full", "The gateway has no memory left for this request.", retry_after_s=2)
    REDIS_UNAVAILABLE = _gateway("redis_unavailable", "The gateway is temporarily unavailable.", retry_after_s=5)
    SHUTTING_DOWN = _gateway("shutting_down", "The gateway is shutting down.", retry_after_s=5)
    INTERNAL = _gateway(
        "internal", "The gateway failed to process the request.", 500, "internal_error", Outcome.UNKNOWN
    )


ERROR_SPECS: Final = MappingProxyType({code: code.spec for code in ErrorCode})
