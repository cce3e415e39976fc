"""One job under way, and the terms on which it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.images import ImageJob
from gateway.domain.keys import UpstreamKey, WaitTerms
from gateway.domain.models import Model
from gateway.domain.sizes import SizePolicy
from gateway.domain.trace import Trace
from gateway.memory import ByteAccount
from gateway.stores.tickets import Ticket
from gateway.upstream.endpoints import Endpoint
from gateway.upstream.foresight import Early


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's limits on one request."""

    deadline_s: float
    """For the whole request, over all attempts."""
    reserve_s: float
    """Of that, what is kept for the call itself when a request waits for an account."""
    max_attempts: int
    size_policy: SizePolicy


class Client(Protocol):
    """Who waits for the images."""

    async def has_left(self) -> bool:
        """Whether nobody waits any more."""

    async def left(self) -> None:
        """Returns when nobody waits any more."""


@dataclass(slots=True)
class BareFaults:
    """Bare faults of one request, over all its parts: those of two keys alike blame the request."""

    _accused: dict[Fault, tuple[str, str]] = field(default_factory=dict)
    """(upstream, key id) of the first call that ended so."""
    _is_blocked: bool = False

    def refuse_blocked(self) -> None:
        """Raises: GatewayError REQUEST_BLOCKED."""
        if self._is_blocked:
            raise GatewayError(Fault.REQUEST_BLOCKED)

    def judge(self, error: GatewayError, key: UpstreamKey) -> GatewayError:
        """The error of a call, or REQUEST_BLOCKED in the place of a bare fault that another key had before."""
        accused = (key.upstream, key.id)
        if not error.row.is_bare or self._accused.setdefault(error.fault, accused) == accused:
            return error
        self._is_blocked = True
        return GatewayError(Fault.REQUEST_BLOCKED, error.detail)


@dataclass(slots=True)
class Run:
    """One job under way, with the upstreams as they were when it began."""

    job: ImageJob
    model: Model
    ticket: Ticket
    trace: Trace
    client: Client
    memory: ByteAccount
    endpoints: Mapping[str, Endpoint]
    waits: Mapping[str, WaitTerms]
    started_s: float
    """Monotonic."""
    ends_at: float
    """Monotonic."""
    waits_until: float | None
    """Monotonic; where the request itself says how long it waits for an account."""
    early: Early | None = None
    """A lease that was asked for before its time."""
    bare: BareFaults = field(default_factory=BareFaults)
    """Shared by the parts of the job."""
