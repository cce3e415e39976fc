"""The context of one request: its deadlines, its client connection and its outcome.

It needs no socket: an HTTP handler, a batch worker or a test can create one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.attribution import Attribution
from gateway.domain.billing import BatchLine, OrderIdentity, Repetition
from gateway.domain.catalog import Model, PlannedTarget
from gateway.domain.errors import ErrorCode
from gateway.domain.images import ImageJob, ImageResult, SizeChange
from gateway.domain.tenants import Rates
from gateway.domain.tracing import Trace
from gateway.generation.memory_budget import ByteAccount
from gateway.metering.reservations import Reservation
from gateway.metering.transfers import Transfer
from gateway.storage.pictures import StoredPicture


class DisconnectEvent(Protocol):
    """Set once the client has disconnected. `asyncio.Event` is one."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object:
        """Returns when it is set."""


class GenerationRequest(Protocol):
    """A parsed request of either client format."""

    @property
    def job(self) -> ImageJob: ...
    @property
    def model(self) -> Model: ...
    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """Returns the targets that can serve the job, in order of preference; at least one."""


@dataclass(frozen=True, slots=True)
class OrderNumbers:
    """What a response's headers say of its order. A response that is replayed has those of the first one."""

    queue_ms: int
    attempts: int
    ignored: tuple[str, ...] = ()
    links: str = ""


@dataclass(frozen=True, slots=True)
class ConvertedRequest:
    """A request whose images have been converted to a format that its targets take."""

    job: ImageJob
    model: Model
    targets: tuple[PlannedTarget, ...]


@dataclass(slots=True)
class RequestContext:
    """One request. Its response headers, log line, spans and metrics are rendered from this."""

    id: str
    started_s: float
    """Monotonic."""
    memory: ByteAccount = field(default_factory=ByteAccount, repr=False)
    """Bytes held by the request and its response."""
    disconnected: DisconnectEvent = field(default_factory=asyncio.Event, repr=False)
    deadline_s: float | None = None
    """Monotonic; None applies the operator's `deadline_s` from admission on."""
    base_url: str = ""
    """Scheme, host and prefix of the gateway for its client, before the path of a link; may be empty."""
    links: str = ""
    """Set if an image has another link than the gateway's, which it should have: "provider", or "none"."""
    keep_s: int | None = None
    """Images with the gateway's links are stored for this long; None applies the tenant's time."""
    stored: dict[str, StoredPicture] = field(default_factory=dict, repr=False)
    """Images of the result in the storage, by these links."""
    identity: OrderIdentity | None = None
    """None: the request repeats no order, and none repeats it."""
    batch: BatchLine | None = None
    """None: an interactive request."""
    attribution: Attribution = field(default_factory=Attribution, repr=False)
    keep_result: Callable[[ImageResult], Awaitable[None]] | None = field(default=None, repr=False)
    """Called with the converted result before it is settled, while the reservation's lease is renewed."""
    replayed: str = ""
    """The reason, if the outcome is that of an order which this request repeats."""
    order: OrderNumbers | None = None
    """The numbers of that order's response, if they are known."""
    on_first_byte: Callable[[], object] | None = field(default=None, repr=False)
    """Called once, when the first byte of the result has been sent. Set with the result."""
    max_wait_s: float | None = None
    """Maximum wait for an account; None applies the upstreams' own."""
    is_watched: bool = False
    """Its place in the queue can be asked for."""
    tenant: str = ""
    key_id: str = ""
    admin: str = ""
    """Name of the admin key, if any."""
    model: str = ""
    """The configured ID, never the caller's spelling: it is a metric label."""
    model_name: str = ""
    """The model as written by the caller."""
    prompt: str = field(default="", repr=False)
    is_stream: bool = False
    is_padded: bool = False
    """The response has begun, with blanks only: an error can still be its body."""
    file_id: str = ""
    """The file that was created, read or deleted."""
    ignored: tuple[str, ...] = ()
    """Request fields that were accepted without effect."""
    cut_prompt: tuple[int, int] | None = None
    """Characters used and sent, if the prompt was shortened."""
    size_change: SizeChange | None = None
    """Set with the result, if another size than requested was made."""
    asked: int = 0
    """Images; 0 until the request is parsed."""
    delivered: int = 0
    status: int = 0
    """HTTP status; 0 until the response begins."""
    left_s: float | None = None
    """Monotonic time at which the client disconnected, if its response was not complete."""
    is_unheard: bool = False
    """The client had disconnected before the response began."""
    missing: int = 0
    error_code: ErrorCode | None = None
    param: str = ""
    """The invalid request field."""
    detail: str = ""
    transfer: Transfer | None = None
    """Counts against its tenant's concurrency while there is no reservation."""
    reservation: Reservation | None = None
    trace: Trace = field(default_factory=Trace)
    rates: Rates | None = None

    @property
    def is_keyed(self) -> bool:
        """Returns whether the request has an Idempotency-Key."""
        return self.identity is not None and self.identity.kind is Repetition.KEYED

    @property
    def charged_usd_micros(self) -> int | None:
        """Returns what this request was charged; None until it is settled. A replay of an order buys nothing."""
        if self.replayed:
            return 0 if self.asked else None
        return self.reservation.charged_usd_micros if self.reservation else None

    @property
    def numbers(self) -> OrderNumbers:
        """Returns the numbers of its response's headers."""
        trace = self.trace
        return self.order or OrderNumbers(round(1000 * trace.queue_s), trace.attempts, self.ignored, self.links)
