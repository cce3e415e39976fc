"""Error codes, and the values that describe their consequences."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

REQUEST: Final = "invalid_request_error"
RATE: Final = "rate_limit_error"
SERVER: Final = "server_error"
"""OpenAI's types of errors (reference/openai-images.md section 5)."""


class Outcome(Enum):
    """The known cost of a call that has ended."""

    NOT_SENT = "not_sent"
    """Nothing was sent upstream: free."""
    REFUSED = "refused"
    """The upstream responded with an error: free."""
    DELIVERED = "delivered"
    """Images were generated and billed upstream."""
    UNKNOWN = "unknown"
    """Sent, without a reliable response: never sent again."""


class Retry(Enum):
    """The gateway's retry policy of an error."""

    NEVER = "never"
    ONCE = "once"
    """One more call: the whole upstream may be failing."""
    FREELY = "freely"
    """While attempts and keys remain: the error concerns one key or account."""


class Scope(Enum):
    """The object that the next attempt avoids and that a cooldown applies to."""

    NOTHING = "nothing"
    KEY = "key"
    MODEL = "model"
    """The key, for this upstream model only."""
    ACCOUNT = "account"
    UPSTREAM = "upstream"


class CooldownKind(Enum):
    """The rule for the length of a cooldown."""

    NONE = "none"
    SECONDS = "seconds"
    """`ErrorSpec.pause_s` seconds."""
    DAY_END = "day_end"
    MONTH_END = "month_end"


class CapacityHint(Enum):
    """Which capacity estimate an error lowers: the account has other users, or lower limits than configured."""

    NOTHING = ""
    RATE = "rate"
    """Requests a minute: lowered to the number that succeeded."""
    GROWTH = "growth"
    """Requests a minute: halved, as traffic rose too fast."""
    CONCURRENCY = "concurrency"


class KeyState(Enum):
    """State of a key, account or upstream."""

    READY = "ready"
    COOLING = "cooling"
    """On cooldown after an error: tried again at a known time."""
    HALF_OPEN = "half_open"
    """The cooldown has expired: one request tries it, and the others wait for the result."""
    QUARANTINED = "quarantined"
    """Invalid, without balance or of another region: probed from time to time, for free."""
    DISABLED = "disabled"
    """Disabled by an operator."""
    DRAINING = "draining"
    """Draining by an operator: in-flight calls finish, and no new ones are sent."""


class ErrorCode(Enum):
    """Error codes. The value is the metric label and the log field."""

    # The caller's request
    INVALID_JSON = "invalid_json"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    PREFLIGHT_REFUSED = "preflight_refused"
    MALFORMED_HTTP = "malformed_http"
    HEADERS_TOO_LARGE = "headers_too_large"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    MISSING_PARAMETER = "missing_required_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    INVALID_TYPE = "invalid_type"
    INVALID_VALUE = "invalid_value"
    INTEGER_BELOW_MIN = "integer_below_min_value"
    INTEGER_ABOVE_MAX = "integer_above_max_value"
    STRING_TOO_LONG = "string_above_max_length"
    EMPTY_STRING = "empty_string"
    MODEL_UNKNOWN = "model_unknown"
    MODEL_NOT_FOUND = "model_not_found"
    NO_CREDENTIALS = "no_credentials"
    INVALID_API_KEY = "invalid_api_key"
    AUTHENTICATION_THROTTLED = "authentication_throttled"
    REQUESTS_THROTTLED = "requests_throttled"
    UNKNOWN_ROUTE = "unknown_route"
    HOST_NOT_ALLOWED = "host_not_allowed"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    # The admin API
    ADMIN_API_DISABLED = "admin_api_disabled"
    ADMIN_UNAUTHORIZED = "admin_unauthorized"
    ADMIN_READ_ONLY = "admin_read_only"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    CHANGE_NOT_MADE = "change_not_made"
    CHANGE_UNCONFIRMED = "change_unconfirmed"
    # The tenant's limits
    RATE_LIMITED = "rate_limited"
    REQUEST_EXCEEDS_LIMIT = "request_exceeds_limit"
    QUOTA_EXHAUSTED = "quota_exhausted"
    # Refused by the upstream because of the caller's request
    CONTENT_INPUT = "content_input"
    CONTENT_OUTPUT = "content_output"
    CONTENT_MODERATED = "content_moderated"
    INVALID_PROMPT = "invalid_prompt"
    PROMPT_TOO_LONG = "prompt_too_long"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_BODY_TOO_LARGE = "upstream_body_too_large"
    REQUEST_BLOCKED = "request_blocked"
    # Refused without the provider's own error code: the cause may be the request, the key, or neither
    BARE_UNAUTHORIZED = "bare_unauthorized"
    BARE_PAYMENT_REQUIRED = "bare_payment_required"
    BARE_FORBIDDEN = "bare_forbidden"
    BARE_RATE_LIMITED = "bare_rate_limited"
    BARE_REFUSAL = "bare_refusal"
    MODEL_DENIED_IN_TEXT = "model_denied_in_text"
    # A key's or an account's
    KEY_INVALID = "key_invalid"
    ACCOUNT_UNVERIFIED = "account_unverified"
    KEY_MODEL_DENIED = "key_model_denied"
    IP_DENIED = "ip_denied"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    KEY_LIMIT_REACHED = "key_limit_reached"
    ACCOUNT_RATE_LIMITED = "account_rate_limited"
    ACCOUNT_TOKEN_LIMITED = "account_token_limited"  # noqa: S105 - no secret
    ACCOUNT_CONNECTION_LIMITED = "account_connection_limited"
    ACCOUNT_GROWTH_LIMITED = "account_growth_limited"
    QUOTA_EXHAUSTED_PLAN = "quota_exhausted_plan"
    QUOTA_EXHAUSTED_DAILY = "quota_exhausted_daily"
    QUOTA_EXHAUSTED_KEY_HOUR = "quota_exhausted_key_hour"
    QUOTA_EXHAUSTED_KEY_DAY = "quota_exhausted_key_day"
    QUOTA_EXHAUSTED_KEY_MONTH = "quota_exhausted_key_month"
    # The upstream's
    UPSTREAM_ERROR = "upstream_error"
    UNEXPECTED_RESPONSE = "unexpected_response"
    MODEL_UNAVAILABLE = "model_unavailable"
    UPSTREAM_UNSUPPORTED = "upstream_unsupported"
    EMPTY_RESPONSE = "empty_response"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    # The network's
    CONNECT_FAILED = "connect_failed"
    NOT_SENT = "not_sent"
    READ_TIMEOUT = "read_timeout"
    CONNECTION_LOST = "connection_lost"
    INVALID_RESPONSE = "invalid_response"
    RESPONSE_TOO_LARGE = "response_too_large"
    DOWNLOAD_FAILED = "download_failed"
    # The gateway's own
    NO_CAPACITY = "no_capacity"
    NO_HEALTHY_ACCOUNT = "no_healthy_account"
    DEADLINE = "deadline"
    CLIENT_DISCONNECTED = "client_disconnected"
    RESERVATION_EXPIRED = "reservation_expired"
    TENANT_MEMORY_FULL = "tenant_memory_full"
    MEMORY_FULL = "memory_full"
    REDIS_UNAVAILABLE = "redis_unavailable"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


class Origin(Enum):
    """The party that has to act on an error."""

    CALLER = "caller"
    """HTTP 4xx: the request is invalid, or exceeds a limit of the tenant or the accounts."""
    GATEWAY = "gateway"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """The consequences of one error code."""

    status: int
    """HTTP status of the response."""
    type: str
    code: str | None
    message: str
    """Safe to show. If `shows_detail` is set, the error's `detail` is shown instead."""
    outcome: Outcome = Outcome.NOT_SENT
    retry: Retry = Retry.NEVER
    scope: Scope = Scope.NOTHING
    """The object that the next attempt avoids and that the cooldown applies to."""
    pause: CooldownKind = CooldownKind.NONE
    pause_s: int = 0
    pause_max_s: int = 0
    """Limit to which the cooldown doubles while the same error repeats without a success."""
    state: KeyState = KeyState.READY
    param: str | None = None
    shows_detail: bool = False
    """The error's `detail` is written for the caller."""
    retry_after_s: int = 10
    """Seconds; sent with 429 and 503 unless the error carries its own."""
    withholds_images: bool = False
    """Images were generated and withheld: the billing rule decides whether they are charged."""
    trips_breaker: bool = False
    """The error concerns the whole upstream: consecutive ones open its circuit breaker."""
    lowers: CapacityHint = CapacityHint.NOTHING
    is_bare: bool = False
    """No provider error code confirms it: no cooldown, and the same error with a second key blames the request."""
    asks_page: bool = False
    """The key is checked at the provider, for free."""
    delay_s: float = 0.0
    """Seconds that the request waits before its next call."""
    is_permanent: bool = False
    """Retrying later does not help, whatever the status is."""

    @property
    def origin(self) -> Origin:
        """Provider errors are those with a scope that the next attempt avoids."""
        if self.status < 500:
            return Origin.CALLER
        return Origin.GATEWAY if self.scope is Scope.NOTHING else Origin.PROVIDER

    @property
    def may_client_retry(self) -> bool:
        """True if sending the same request again may help and cannot be billed twice."""
        is_transient = not self.is_permanent and (self.status in {408, 429} or self.status >= 500)
        is_refused_for_now = self.outcome is Outcome.REFUSED and self.retry is not Retry.NEVER
        return is_transient and (self.outcome is Outcome.NOT_SENT or is_refused_for_now)

    @property
    def sends_retry_after(self) -> bool:
        return self.status in {429, 503}
