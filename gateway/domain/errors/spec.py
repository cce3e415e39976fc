"""The values that describe the consequences of an error code."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """The known cost of a call that has ended."""

    NOT_SENT = "not_sent"  # nothing was sent upstream: free
    REFUSED = "refused"  # the upstream responded with an error: free
    DELIVERED = "delivered"  # images were generated and billed upstream
    UNKNOWN = "unknown"  # sent, without a reliable response: never sent again


class Retry(Enum):
    """The gateway's retry policy of an error."""

    NEVER = "never"
    ONCE = "once"  # one more call: the whole upstream may be failing
    FREELY = "freely"  # while attempts and keys remain: the error concerns one key or account


class Scope(Enum):
    """The object that the next attempt avoids and that a cooldown applies to."""

    NOTHING = "nothing"
    KEY = "key"
    MODEL = "model"  # the key, for this upstream model only
    ACCOUNT = "account"
    UPSTREAM = "upstream"


class CooldownKind(Enum):
    """The rule for the length of a cooldown."""

    NONE = "none"
    SECONDS = "seconds"
    DAY_END = "day_end"
    MONTH_END = "month_end"


class CapacityHint(Enum):
    """Which capacity estimate an error lowers: the account has other users, or lower limits than configured."""

    NOTHING = ""
    RATE = "rate"  # requests a minute: lowered to the number that succeeded
    GROWTH = "growth"  # requests a minute: halved, as traffic rose too fast
    CONCURRENCY = "concurrency"


class KeyState(Enum):
    """State of a key, account or upstream."""

    READY = "ready"
    COOLING = "cooling"  # on cooldown after an error: tried again at a known time
    HALF_OPEN = "half_open"  # the cooldown has expired: one request tries it, and the others wait for the result
    QUARANTINED = "quarantined"  # invalid, without balance or of another region: probed from time to time, for free
    DISABLED = "disabled"
    DRAINING = "draining"  # by an operator: in-flight calls finish, and no new ones are sent


class Origin(Enum):
    """The party that has to act on an error."""

    CALLER = "caller"  # HTTP 4xx: the request is invalid, or exceeds a limit of the tenant or the accounts
    GATEWAY = "gateway"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """The consequences of one error code."""

    status: int
    type: str
    code: str | None
    message: str
    """Safe to show. If `shows_detail` is set, the error's `detail` is shown instead."""
    outcome: Outcome = Outcome.NOT_SENT
    retry: Retry = Retry.NEVER
    scope: Scope = Scope.NOTHING
    pause: CooldownKind = CooldownKind.NONE
    pause_s: int = 0
    pause_max_s: int = 0  # limit to which the cooldown doubles while the same error repeats without a success
    state: KeyState = KeyState.READY
    param: str | None = None
    shows_detail: bool = False  # the error's `detail` is written for the caller
    retry_after_s: int = 10  # seconds; sent with 429 and 503 if a retry may help, unless the error carries its own
    withholds_images: bool = False
    """Images were generated and withheld: the billing rule decides whether they are charged."""
    trips_breaker: bool = False  # the error concerns the whole upstream: consecutive ones open its circuit breaker
    lowers: CapacityHint = CapacityHint.NOTHING
    is_bare: bool = False
    """No provider error code confirms it: no cooldown, and the same error with a second key blames the request."""
    asks_page: bool = False  # the key is checked at the provider, for free
    delay_s: float = 0.0  # seconds that the request waits before its next call
    is_permanent: bool = False  # retrying later does not help, whatever the status is

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
        return self.status in {429, 503} and self.may_client_retry
