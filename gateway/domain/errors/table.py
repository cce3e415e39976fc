"""The error table, one row per code (reference/minimax.md section 3, reference/openai-images.md section 5)."""

from enum import Enum
from types import MappingProxyType
from typing import Final, Self

from gateway.domain.errors.rows import (
    BUSY,
    CODES,
    RATE,
    bare,
    busy,
    caller,
    content,
    cooled,
    failed,
    gateway,
    limit,
    permanent_limit,
    quarantined,
    refused,
    unjudged,
    unknown,
    unsafe,
)
from gateway.domain.errors.spec import CapacityHint, CooldownKind, ErrorSpec, Outcome, Retry, Scope


class ErrorCode(Enum):
    """Error codes, each with its consequences. The value is the metric label and the log field."""

    value: str
    spec: ErrorSpec

    def __new__(cls, label: str, *spec: ErrorSpec) -> Self:  # a lookup, as ErrorCode("internal"), has the label only
        code = object.__new__(cls)
        code._value_, (code.spec,) = label, spec
        return code

    # The caller's request
    INVALID_JSON = caller("invalid_json", 400, "We could not parse the JSON body of your request.", None)
    UNSUPPORTED_CONTENT_TYPE = caller(
        "unsupported_content_type", 415, "Unsupported content type. Send 'application/json'."
    )
    PREFLIGHT_REFUSED = caller("preflight_refused", 400, "The browser's preflight request was refused.")
    MALFORMED_HTTP = caller("malformed_http", 400, "The request is not valid HTTP.", None)
    HEADERS_TOO_LARGE = caller("headers_too_large", 431, "The request's headers are too large.")
    BODY_TOO_LARGE = caller("body_too_large", 413, "The request body is too large.", "request_too_large")
    BODY_TIMEOUT = caller("body_timeout", 408, "The request body did not arrive in time.", "request_timeout")
    MISSING_PARAMETER = caller("missing_required_parameter", 400, "A required parameter is missing.")
    UNKNOWN_PARAMETER = caller("unknown_parameter", 400, "Unknown parameter.")
    INVALID_TYPE = caller("invalid_type", 400, "A parameter has the wrong type.")
    INVALID_VALUE = caller("invalid_value", 400, "A parameter has a value that is not supported.")
    INTEGER_BELOW_MIN = caller("integer_below_min_value", 400, "An integer is too small.")
    INTEGER_ABOVE_MAX = caller("integer_above_max_value", 400, "An integer is too large.")
    STRING_TOO_LONG = caller("string_above_max_length", 400, "A string is too long.")
    EMPTY_STRING = caller("empty_string", 400, "A string is empty.")
    MODEL_UNKNOWN = caller("model_unknown", 400, "The model does not exist.", "model_not_found", param="model")
    MODEL_NOT_FOUND = caller("model_not_found", 404, "The model does not exist.", param="model")
    NO_CREDENTIALS = caller("no_credentials", 401, "You did not provide an API key.", None)
    INVALID_API_KEY = caller("invalid_api_key", 401, "Incorrect API key provided.")
    AUTHENTICATION_THROTTLED = limit(
        "authentication_throttled",
        "Too many wrong keys or links from this address. Please try again later.",
        shows_detail=False,
    )
    REQUESTS_THROTTLED = limit("requests_throttled", "Too many requests with this key. Please try again in 1 s.")
    UNKNOWN_ROUTE = caller("unknown_route", 404, "Invalid URL.", "unknown_url")
    LINK_INVALID = caller("link_invalid", 403, "This link is not valid. Use it as it was given, without any change.")
    LINK_EXPIRED = caller("link_expired", 403, "This link has expired, and its image is deleted.")
    RANGE_NOT_SATISFIABLE = caller("range_not_satisfiable", 416, "The Range header begins after the end of the file.")
    HOST_NOT_ALLOWED = caller(
        "host_not_allowed",
        421,
        "The Host header is not allowed on this port. Use its address or localhost, or add the name to "
        "allowed_hosts in [admin] or [metrics].",
    )
    METHOD_NOT_ALLOWED = caller("method_not_allowed", 405, "This method is not allowed here.")
    NOT_PERMITTED = caller("not_permitted", 403, "This key is not permitted to do this.")
    # The admin API
    ADMIN_API_DISABLED = caller(
        "admin_api_disabled", 403, "The admin API is disabled: no admin key is configured. Set [admin] key."
    )
    ADMIN_UNAUTHORIZED = caller("admin_unauthorized", 401, "A valid admin key is required.", "invalid_admin_key")
    ADMIN_READ_ONLY = caller("admin_read_only", 403, "This admin key is read-only.")
    # The console
    SESSION_REQUIRED = caller("session_required", 401, "Sign in to the console: there is no session, or it has ended.")
    CROSS_SITE_REQUEST = caller("cross_site_request", 403, "The console accepts requests of its own pages only.")
    COOKIE_NOT_POSSIBLE = caller(
        "cookie_not_possible",
        400,
        "A browser stores the session's cookie only with TLS or on localhost. Open the console by https:// or by "
        "http://localhost.",
    )
    INVITATION_INVALID = caller(
        "invitation_invalid",
        403,
        "This link is unknown, was used, or has expired. Ask an administrator for a new one.",
    )
    NOT_FOUND = caller("not_found", 404, "Not found.")
    CONFLICT = caller("conflict", 409, "Already exists.", "already_exists")
    TOO_MANY_KEYS = caller("too_many_keys", 409, "The tenant has as many keys as it may have.")
    CHANGE_NOT_MADE = gateway(
        "change_not_made", "Redis is unavailable. The change was not made. Try again.", retry_after_s=5
    )
    CHANGE_UNCONFIRMED = gateway(
        "change_unconfirmed",
        "Redis did not confirm the change, which may have been made. Before you repeat it, search for it with "
        "`imagegate audit` or GET /admin/v1/audit (a lead: `imagegate me audit`, GET /v1/tenant/audit): each entry has "
        "the x-request-id of its request. A secret that was not shown is lost: rotate or revoke its key.",
        504,
        "change_unconfirmed",
        Outcome.UNKNOWN,
    )
    # Repeated requests
    IDEMPOTENCY_KEY_REUSED = caller(
        *("idempotency_key_reused", 422, "This Idempotency-Key belongs to another request. Use a new one."),
        param="idempotency-key",
    )
    ORDER_IN_PROGRESS = caller("order_in_progress", 409, "The same request is still in progress. Repeat it later.")
    RESULT_NOT_KEPT = caller("result_not_kept", 409, "Paid for, but not stored. A new Idempotency-Key buys others.")
    # The tenant's limits
    RATE_LIMITED = limit("rate_limited", "A rate limit of this tenant is reached. Please try again later.")
    REQUEST_EXCEEDS_LIMIT = permanent_limit(
        "request_exceeds_limit",
        RATE,
        CODES[429],
        "This request alone exceeds a rate limit of this tenant. Request fewer images.",
    )
    QUOTA_EXHAUSTED = permanent_limit(
        "quota_exhausted", "insufficient_quota", "insufficient_quota", "A quota of this tenant is used up."
    )
    STORAGE_QUOTA_EXHAUSTED = permanent_limit(
        "storage_quota_exhausted",
        *("insufficient_quota", "insufficient_quota", "The tenant's stored files use up its quota of bytes."),
    )
    # Refused by the upstream because of the caller's request
    CONTENT_INPUT = unsafe("content_input", "the prompt was judged unsafe")
    CONTENT_OUTPUT = unsafe("content_output", "the generated images were judged unsafe")
    CONTENT_MODERATED = unsafe("content_moderated", "all images were withheld", withholds_images=True)
    INVALID_PROMPT = content(
        "invalid_prompt", "The prompt contains too many invisible or unreadable characters. Remove them."
    )
    PROMPT_TOO_LONG = content("prompt_too_long", "The prompt is too long for this model.", "string_above_max_length")
    UPSTREAM_REJECTED = content(
        "upstream_rejected",
        "The image service does not accept the parameters of this request.",
        "invalid_value",
        param=None,
    )
    UPSTREAM_BODY_TOO_LARGE = content(
        "upstream_body_too_large",
        "The request is too large for the image service.",
        "request_too_large",
        param=None,
        status=413,
    )
    REQUEST_BLOCKED = content(
        "request_blocked",
        "The image service refuses this request with every key, without a reason. Its gateway or firewall "
        "probably blocks the prompt or a parameter. Change them and retry.",
        param=None,
    )
    # Refused without the provider's own error code: the cause may be the request, the key, or neither
    BARE_UNAUTHORIZED = bare("bare_unauthorized", 503, Scope.KEY, asks_page=True)
    BARE_PAYMENT_REQUIRED = bare("bare_payment_required", 503, Scope.ACCOUNT, asks_page=True)
    BARE_FORBIDDEN = bare("bare_forbidden", 503, Scope.KEY, asks_page=True)
    BARE_RATE_LIMITED = bare("bare_rate_limited", 429, Scope.ACCOUNT, delay_s=1.0)  # delays only this request
    BARE_REFUSAL = bare("bare_refusal", 502, Scope.KEY)
    MODEL_DENIED_IN_TEXT = bare("model_denied_in_text", 503, Scope.ACCOUNT)
    # A key's or an account's
    KEY_INVALID = quarantined("key_invalid", Scope.KEY)
    ACCOUNT_UNVERIFIED = quarantined("account_unverified", Scope.ACCOUNT)
    KEY_MODEL_DENIED = quarantined("key_model_denied", Scope.MODEL)
    IP_DENIED = quarantined("ip_denied", Scope.UPSTREAM)
    INSUFFICIENT_BALANCE = quarantined("insufficient_balance", Scope.ACCOUNT)
    KEY_LIMIT_REACHED = quarantined("key_limit_reached", Scope.KEY)
    ACCOUNT_RATE_LIMITED = busy("account_rate_limited", 15, 60, CapacityHint.RATE)
    ACCOUNT_TOKEN_LIMITED = busy("account_token_limited", 60, 0)
    ACCOUNT_CONNECTION_LIMITED = busy("account_connection_limited", 10, 15, CapacityHint.CONCURRENCY)
    ACCOUNT_GROWTH_LIMITED = busy("account_growth_limited", 20, 30, CapacityHint.GROWTH)
    QUOTA_EXHAUSTED_PLAN = cooled("quota_exhausted_plan", Scope.ACCOUNT, CooldownKind.SECONDS, 60 * 60)
    QUOTA_EXHAUSTED_DAILY = cooled("quota_exhausted_daily", Scope.ACCOUNT, CooldownKind.DAY_END)
    QUOTA_EXHAUSTED_KEY_HOUR = cooled("quota_exhausted_key_hour", Scope.KEY, CooldownKind.SECONDS, 60 * 60)
    QUOTA_EXHAUSTED_KEY_DAY = cooled("quota_exhausted_key_day", Scope.KEY, CooldownKind.DAY_END)
    QUOTA_EXHAUSTED_KEY_MONTH = cooled("quota_exhausted_key_month", Scope.KEY, CooldownKind.MONTH_END)
    # The upstream's or the network's
    UPSTREAM_ERROR = failed(
        "upstream_error", 502, "The image service failed to process the request.", Outcome.REFUSED, Retry.ONCE
    )
    UNEXPECTED_RESPONSE = failed(
        "unexpected_response", 502, "The image service returned an unexpected response.", Outcome.REFUSED
    )
    MODEL_UNAVAILABLE = cooled("model_unavailable", Scope.UPSTREAM, CooldownKind.SECONDS, 30, 60, retry_after_s=30)
    UPSTREAM_UNSUPPORTED = (
        "upstream_unsupported",
        refused(502, "The image service does not support this operation.", Scope.UPSTREAM),
    )
    EMPTY_RESPONSE = failed(
        "empty_response", 502, "The image service responded without images.", Outcome.REFUSED, Retry.ONCE
    )
    UPSTREAM_TIMEOUT = unknown("upstream_timeout", 504, "The image service timed out.")
    CONNECT_FAILED = failed(
        "connect_failed", 503, "The image service is unreachable.", Outcome.NOT_SENT, Retry.ONCE, Scope.UPSTREAM
    )
    NOT_SENT = unjudged("not_sent", "The request could not be sent upstream.", Outcome.NOT_SENT)
    READ_TIMEOUT = unknown("read_timeout", 504, "The image service did not respond in time.")
    TASK_UNFINISHED = unknown("task_unfinished", 504, "The image service did not finish in time.", is_judged=False)
    TASK_LOST = unknown("task_lost", 502, "The image service no longer knows the request.", is_judged=False)
    CONNECTION_LOST = unknown("connection_lost", 502, "The connection to the image service broke.")
    INVALID_RESPONSE = unknown("invalid_response", 502, "The image service's response is invalid.")
    RESPONSE_TOO_LARGE = unknown("response_too_large", 502, "The image service's response is too large.")
    DOWNLOAD_FAILED = unjudged(
        "download_failed", "The images were generated but could not be downloaded.", Outcome.DELIVERED
    )
    # The gateway's own
    NO_CAPACITY = limit("no_capacity", BUSY)
    NO_HEALTHY_ACCOUNT = gateway(
        "no_healthy_account",
        "No image service is available. Please try again later.",
        503,
        "no_upstream_available",
        retry_after_s=59,  # the longest wait that every SDK obeys
    )
    DEADLINE = gateway("deadline", "The request's deadline passed before it could be sent.", 504, "deadline_exceeded")
    CLIENT_DISCONNECTED = caller(
        "client_disconnected",
        499,
        "The client disconnected before the request was sent upstream.",
        "client_closed_request",
    )
    RESERVATION_EXPIRED = gateway(
        "reservation_expired",
        "The reservation expired before the request was sent. It was not charged; retry it.",
        retry_after_s=1,
    )
    TENANT_MEMORY_FULL = limit(
        "tenant_memory_full", "This tenant's in-flight requests use its share of memory.", 2, shows_detail=False
    )
    MEMORY_FULL = gateway("memory_full", "The gateway has no memory left for this request.", retry_after_s=2)
    REDIS_UNAVAILABLE = gateway("redis_unavailable", "The gateway is temporarily unavailable.", retry_after_s=5)
    STORAGE_UNAVAILABLE = gateway(
        "storage_unavailable", "Stored files are temporarily unavailable. Please try again.", retry_after_s=5
    )
    SHUTTING_DOWN = gateway("shutting_down", "The gateway is shutting down.", retry_after_s=5)
    INTERNAL = gateway("internal", "The gateway failed to process the request.", 500, "internal_error", Outcome.UNKNOWN)


ERROR_SPECS: Final = MappingProxyType({code: code.spec for code in ErrorCode})
