"""Everything that can go wrong, and the words in which its consequences are written."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

REQUEST: Final = "invalid_request_error"
RATE: Final = "rate_limit_error"
SERVER: Final = "server_error"
"""OpenAI's types of errors (reference/openai-images.md section 5)."""


class Outcome(Enum):
    """What is known of the money when a call ends."""

    NOT_SENT = "not_sent"
    """Nothing left the gateway: free."""
    REFUSED = "refused"
    """An explicit answer that it failed: free."""
    DELIVERED = "delivered"
    """Images were made and billed upstream."""
    UNKNOWN = "unknown"
    """Sent, and no answer that can be relied on: never bought again."""


class Retry(Enum):
    """Whether the gateway itself may send the job again."""

    NEVER = "never"
    ONCE = "once"
    """One more call: the upstream may be ill as a whole."""
    FREELY = "freely"
    """As long as attempts and keys last: the fault is the key's or the account's."""


class Scope(Enum):
    """What a further attempt of the same job must avoid, and what `Effect` takes out of the pool."""

    NOTHING = "nothing"
    KEY = "key"
    MODEL = "model"
    """The key for this upstream model only."""
    ACCOUNT = "account"
    UPSTREAM = "upstream"


class CooldownKind(Enum):
    """How long a key or account rests after a fault."""

    NONE = "none"
    SECONDS = "seconds"
    """`Row.pause_s` seconds."""
    DAY_END = "day_end"
    MONTH_END = "month_end"


class CapacityHint(Enum):
    """What a fault tells us to expect less of: somebody else uses the account too, or it allows less than was said."""

    NOTHING = ""
    RATE = "rate"
    """Requests of a minute: to what came through."""
    GROWTH = "growth"
    """Likewise: to half, as traffic rose too fast."""
    CONCURRENCY = "lanes"


class KeyState(Enum):
    """The state in which a fault puts a key."""

    READY = "ready"
    COOLING = "cooling"
    """Busy, spent or ill: comes back by itself at a known moment."""
    HALF_OPEN = "half_open"
    """Its rest is over: one request tries it, and the others wait for what comes of that."""
    QUARANTINED = "quarantined"
    """Invalid, without balance or of another region: asked for free from time to time whether it works again."""
    DISABLED = "disabled"
    """A person took it out."""
    DRAINING = "draining"
    """A person takes it out: what is under way is finished, nothing more is sent."""


class ErrorCode(Enum):
    """Everything that can go wrong, named once. The value is the metric label and the log field."""

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
    # Refused by the upstream for what the caller asked
    CONTENT_INPUT = "content_input"
    CONTENT_OUTPUT = "content_output"
    CONTENT_MODERATED = "content_moderated"
    INVALID_PROMPT = "invalid_prompt"
    PROMPT_TOO_LONG = "prompt_too_long"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_BODY_TOO_LARGE = "upstream_body_too_large"
    REQUEST_BLOCKED = "request_blocked"
    # Refused without the provider's own error code: the request's fault, the key's, or neither's
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
    """Who has to act on an error."""

    CALLER = "caller"
    """HTTP 4xx: the request is wrong, or asks for more than the tenant or the accounts may have."""
    GATEWAY = "gateway"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What follows from one fault."""

    status: int
    """HTTP status of the answer."""
    type: str
    code: str | None
    message: str
    """Safe to show; for the caller's own faults the error's `detail` is shown instead."""
    outcome: Outcome = Outcome.NOT_SENT
    retry: Retry = Retry.NEVER
    scope: Scope = Scope.NOTHING
    """What a further attempt avoids and what is paused."""
    pause: CooldownKind = CooldownKind.NONE
    pause_s: int = 0
    pause_max_s: int = 0
    """The pause doubles up to this while the same fault comes again without a success between."""
    state: KeyState = KeyState.READY
    param: str | None = None
    shows_detail: bool = False
    """The error's `detail` was written by us for the caller."""
    retry_after_s: int = 10
    """Sent with 429 and 503 unless the error knows better, seconds."""
    withholds_images: bool = False
    """Images were made and kept back: they cost what the operator says."""
    trips_breaker: bool = False
    """It speaks of the upstream's health as a whole: so many in a row open its circuit breaker."""
    lowers: CapacityHint = CapacityHint.NOTHING
    is_bare: bool = False
    """No error code of the provider backs it: nothing rests, and the same fault of a second key blames the request."""
    asks_page: bool = False
    """The upstream's free page is asked whether the key is at fault."""
    delay_s: float = 0.0
    """How long the request itself waits before its next call."""
    is_permanent: bool = False
    """Waiting does not help, whatever the status says."""

    @property
    def origin(self) -> Origin:
        """Failures of the provider are those that a call meets: they name what a further attempt avoids."""
        if self.status < 500:
            return Origin.CALLER
        return Origin.GATEWAY if self.scope is Scope.NOTHING else Origin.PROVIDER

    @property
    def may_client_retry(self) -> bool:
        """Whether sending the same request again could help and cannot be billed twice."""
        is_transient = not self.is_permanent and (self.status in {408, 429} or self.status >= 500)
        is_refused_for_now = self.outcome is Outcome.REFUSED and self.retry is not Retry.NEVER
        return is_transient and (self.outcome is Outcome.NOT_SENT or is_refused_for_now)

    @property
    def sends_retry_after(self) -> bool:
        return self.status in {429, 503}
