"""One job under way, and the terms on which it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.images import ImageJob, SizePolicy
from gateway.domain.keys import WaitTerms
from gateway.domain.models import Model
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
