"""The values that describe the consequences of an error code."""

from dataclasses import dataclass
from enum import Enum


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
    CONCURRENCY = "lanes"


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
    DRAINING = "draining"
    """By an operator: in-flight calls finish, and no new ones are sent."""


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
