"""One job in progress: its limits, its errors so far, and the usual duration of calls."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.domain.accounts import ProviderKey, WaitConfig
from gateway.domain.catalog import Model, PlannedTarget, Target
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageJob
from gateway.generation.context import RequestContext
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.metering.reservations import Reservation

_SAMPLES_MAX: Final = 50
"""Latest calls remembered per upstream, model and image count."""


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """The operator's limits on one request."""

    deadline_s: float
    """For the whole request, across all attempts."""
    reserve_s: float
    """Part of the deadline reserved for the call while a request waits for an account."""
    max_attempts: int


class GenerationRequest(Protocol):
    """A parsed request of either client format."""

    @property
    def job(self) -> ImageJob: ...
    @property
    def model(self) -> Model: ...
    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """Returns the targets that can serve the job, in order of preference; at least one."""


@dataclass(slots=True)
class BareErrors:
    """Errors of one request without a provider code. The same one with two keys blames the request."""

    _accused: dict[ErrorCode, tuple[str, str]] = field(default_factory=dict)
    """(upstream, key ID) of the first call with this error."""
    is_blocked: bool = False
    """Two keys met the same error: no further call is sent."""

    def judge(self, error: GatewayError, key: ProviderKey) -> GatewayError:
        """Returns the call's error, or REQUEST_BLOCKED if another key met the same one."""
        accused = (key.upstream, key.id)
        if not error.row.is_bare or self._accused.setdefault(error.error_code, accused) == accused:
            return error
        self.is_blocked = True
        return GatewayError(ErrorCode.REQUEST_BLOCKED, error.detail)


@dataclass(slots=True)
class JobContext:
    """One job in progress, with the upstreams of its start."""

    job: ImageJob
    model: Model
    reservation: Reservation
    context: RequestContext
    endpoints: Mapping[str, UpstreamEndpoint]
    waits: Mapping[str, WaitConfig]
    started_s: float
    """Monotonic."""
    ends_at: float
    """Monotonic."""
    bare: BareErrors = field(default_factory=BareErrors)
    """Shared by the parts of the job."""


class CallDurations:
    """Durations of this process's latest successful calls. A call is not retried with less time left."""

    def __init__(self, default_s: float) -> None:
        """`default_s` applies to calls of a kind that has not succeeded yet."""
        self._default_s = default_s
        self._seconds: dict[tuple[str, str, int], deque[float]] = {}

    def note(self, target: Target, images: int, seconds: float) -> None:
        """Records the duration of a successful call, downloads included."""
        kind = (target.upstream, target.model, images)
        self._seconds.setdefault(kind, deque(maxlen=_SAMPLES_MAX)).append(seconds)

    def usual_s(self, target: Target, images: int) -> float:
        """Returns the time within which nine of ten calls succeeded."""
        samples = sorted(self._seconds.get((target.upstream, target.model, images), ()))
        return samples[-1 - len(samples) // 10] if samples else self._default_s
