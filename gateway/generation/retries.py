"""The retry rules of one part of a job, the results of its calls, and their usual durations."""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.catalog import PlannedTarget, Target
from gateway.domain.errors import ErrorCode, GatewayError, Outcome, Retry, Scope, detach
from gateway.domain.images import ImageResult
from gateway.scheduler import NoCapacity, RetryKind

_LOG = structlog.get_logger("imagegate.upstream")
_FREE = frozenset({Outcome.NOT_SENT, Outcome.REFUSED})
_SAMPLES_MAX: Final = 50
"""Latest calls remembered per upstream, model and image count."""
_WEIGHT = {Outcome.UNKNOWN: 0, Outcome.DELIVERED: 1, Outcome.REFUSED: 2, Outcome.NOT_SENT: 3}

CallResult = ImageResult | GatewayError


@dataclass(slots=True)
class RetryState:
    """Retry state of one part of a job."""

    left: int
    """Remaining calls."""
    avoided: set[tuple[str, str]] = field(default_factory=set)
    """(upstream, key ID or "ACCOUNT/")."""
    last: GatewayError | None = None
    last_at: str = ""
    """Upstream of the last failure."""
    repeated: ErrorCode | None = None
    """Error of a call that is to be repeated on the same upstream."""
    asked: str = ""
    """Time of the part's first lease request, by the scheduler's clock: it keeps its place in the queue."""
    has_retried_once: bool = False
    shortest_wait_s: float | None = None
    is_busy: bool = False
    is_patient: bool = False
    """Every target has been tried: it waits for its full remaining time at the one that has capacity first."""
    soonest: PlannedTarget | None = None
    """The target that has capacity first."""
    soonest_s: float = math.inf

    def copy(self) -> "RetryState":
        return replace(self, avoided=set(self.avoided))

    def note_failure(self, error: GatewayError, key: ProviderKey) -> None:
        self.last, self.last_at = error, key.upstream
        if error.row.outcome is not Outcome.NOT_SENT:
            self.left -= 1
        if error.row.scope in {Scope.KEY, Scope.MODEL}:
            self.avoided.add((key.upstream, key.id))
        elif error.row.scope is Scope.ACCOUNT:
            self.avoided.add((key.upstream, f"{key.account}/"))

    def note_no_key(self, target: PlannedTarget, nothing: NoCapacity) -> None:
        self.asked = self.asked or nothing.asked
        self.is_busy = self.is_busy or nothing.is_busy
        if nothing.is_busy and nothing.wait_s is not None and nothing.wait_s < self.soonest_s:
            self.soonest, self.soonest_s = target, nothing.wait_s
        if nothing.wait_s is not None:
            self.shortest_wait_s = min(nothing.wait_s, self.shortest_wait_s or nothing.wait_s)

    def avoided_at(self, upstream: str) -> tuple[str, ...]:
        return tuple(what for where, what in self.avoided if where == upstream)

    def repeat_at(self, upstream: str) -> RetryKind:
        """Returns if the next call to an upstream repeats one that failed there."""
        if self.last is None or self.last_at != upstream:
            return RetryKind.FIRST
        return RetryKind.RETRY if self.last.row.trips_breaker else RetryKind.FAILOVER

    def may_go_elsewhere(self, error: GatewayError) -> bool:
        """Returns True if the next target may be tried because this whole upstream cannot serve."""
        row = error.row
        return self.left > 0 and row.outcome in _FREE and row.retry is not Retry.NEVER and row.scope is Scope.UPSTREAM

    def may_send_again(self, error: GatewayError) -> bool:
        """Returns True if the table allows a retry: the outcome is known to be free, and calls remain."""
        row = error.row
        if self.left <= 0 or row.retry is Retry.NEVER or row.outcome not in _FREE:
            return False
        if row.retry is Retry.ONCE:
            if self.has_retried_once:
                return False
            self.has_retried_once = True
        return True

    def decision(self) -> GatewayError:
        """Returns the final error of the part: the last error, or no capacity in time.

        An error of a key does not count if another key could have served with more capacity.
        """
        wait_s = self.shortest_wait_s
        if self.last is not None and not (self.is_busy and self.last.row.retry is Retry.FREELY):
            return self.last
        if not self.is_busy:
            return GatewayError(ErrorCode.NO_HEALTHY_ACCOUNT, "no account is available", retry_after_s=wait_s)
        time = f" for about {math.ceil(wait_s)} s." if wait_s else "; please try again shortly."
        detail = f"Every account that could make this image is busy{time}"
        return GatewayError(ErrorCode.NO_CAPACITY, detail, retry_after_s=wait_s)


def is_for_another_target(error: GatewayError, others: list[PlannedTarget]) -> bool:
    """Returns True if a retry goes to the next upstream: this one cannot serve or seems unhealthy."""
    if error.row.scope is Scope.UPSTREAM and error.row.retry is Retry.FREELY:
        return True
    return bool(others) and error.row.trips_breaker


def read_part(part: list[CallResult] | BaseException) -> list[CallResult]:
    """Turns an error or a bug in one part into that part's failure. Raises: exceptions that end the program."""
    if isinstance(part, GatewayError):
        return [detach(part)]
    if isinstance(part, Exception):
        _LOG.error("internal_error", exc_info=part)
        return [GatewayError(ErrorCode.INTERNAL, type(part).__name__)]
    if isinstance(part, BaseException):
        raise part
    return part


def most_relevant_error(errors: list[GatewayError]) -> GatewayError:
    """Returns the most relevant error: one that may have cost money first, then a permanent one."""
    return min(errors, key=lambda error: (_WEIGHT[error.row.outcome], error.row.may_client_retry))


@dataclass(slots=True)
class CallDurations:
    """Durations of this process's latest successful calls. A call is not retried with less time left."""

    _default_s: float
    """For calls of a kind that has not succeeded yet."""
    _seconds: dict[tuple[str, str, int], deque[float]] = field(default_factory=dict)

    def note(self, target: Target, images: int, seconds: float) -> None:
        """Records the duration of a successful call, downloads included."""
        kind = (target.upstream, target.model, images)
        self._seconds.setdefault(kind, deque(maxlen=_SAMPLES_MAX)).append(seconds)

    def usual_s(self, target: Target, images: int) -> float:
        """Returns the time within which nine of ten calls succeeded, or the default."""
        measured_s = self.measured_s(target, images)
        return self._default_s if measured_s is None else measured_s

    def measured_s(self, target: Target, images: int) -> float | None:
        """Returns the time within which nine of ten calls succeeded; None before the first one."""
        samples = sorted(self._seconds.get((target.upstream, target.model, images), ()))
        return samples[-1 - len(samples) // 10] if samples else None
