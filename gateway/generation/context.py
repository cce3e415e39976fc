"""The context of one request: its limits of time, who waits for it, and what became of it.

It needs no socket: an HTTP handler, a batch worker or a test can make one.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.errors import ErrorCode
from gateway.domain.tenants import Rates
from gateway.domain.tracing import Trace
from gateway.generation.memory_budget import ByteAccount
from gateway.metering.reservations import Reservation
from gateway.metering.transfers import Transfer


class DisconnectEvent(Protocol):
    """Set once the client has disconnected. `asyncio.Event` is one."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object:
        """Returns when it is set."""


@dataclass(slots=True)
class RequestContext:
    """One request. Its response headers, log line, spans and metrics are rendered from this."""

    id: str
    started_s: float
    """Monotonic."""
    memory: ByteAccount = field(default_factory=ByteAccount, repr=False)
    """The bytes that it holds, and its response."""
    disconnected: DisconnectEvent = field(default_factory=asyncio.Event, repr=False)
    deadline_s: float | None = None
    """Monotonic; None gives it the operator's `deadline_s` from its admission on."""
    max_wait_s: float | None = None
    """The longest wait for an account; None takes the upstreams' own."""
    tenant: str = ""
    key_id: str = ""
    admin: str = ""
    """The name of the admin key that came with it."""
    model: str = ""
    """The configured id, never the caller's spelling: it is a metric label."""
    model_name: str = ""
    """The model as the caller wrote it."""
    prompt: str = field(default="", repr=False)
    is_stream: bool = False
    ignored: tuple[str, ...] = ()
    """Fields of the request that were accepted and change nothing."""
    asked: int = 0
    """Images; 0 until the request was parsed."""
    delivered: int = 0
    missing: int = 0
    """Images that a result lacks."""
    error_code: ErrorCode | None = None
    param: str = ""
    """The field of the request that is at fault."""
    detail: str = ""
    transfer: Transfer | None = None
    """Counts for its tenant's concurrency while no reservation does."""
    reservation: Reservation | None = None
    trace: Trace = field(default_factory=Trace)
    rates: Rates | None = None
    """The status of the tenant's rate limits."""
