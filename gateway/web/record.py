"""What is known of one request, gathered as it goes: the source of its log line, its metrics and its headers."""

from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from gateway.domain.faults import Fault
from gateway.domain.rates import Rates
from gateway.domain.trace import Trace
from gateway.memory import ByteAccount
from gateway.stores.tickets import Ticket
from gateway.stores.transfers import Transfer

_KEY: Final = "record"


@dataclass(slots=True)
class RequestRecord:
    """One request."""

    id: str
    started_s: float
    """Monotonic."""
    memory: ByteAccount = field(repr=False)
    """The bytes that it holds, and its response."""
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
    asked: int = 0
    delivered: int = 0
    fault: Fault | None = None
    param: str = ""
    """The field of the request that is at fault."""
    detail: str = ""
    transfer: Transfer | None = None
    """What counts for its tenant's concurrency while no reservation does."""
    ticket: Ticket | None = None
    """What was admitted, and what became of it."""
    trace: Trace = field(default_factory=Trace)
    rates: Rates | None = None
    """How the tenant's rate limits stand."""
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Headers that the answer gets whatever it is."""


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request ended."""

    method: str
    route: str
    """As it is configured, never the caller's path: it is a metric label."""
    status: int
    total_s: float
    client: str = ""
    """Its address."""

    def own_s(self, trace: Trace) -> float:
        """Time in which it waited neither for an account nor for an upstream."""
        return max(0.0, self.total_s - trace.upstream_s - trace.queue_s)


def attach(scope_state: dict[str, object], record: RequestRecord) -> None:
    scope_state[_KEY] = record


def record_of(connection: HTTPConnection) -> RequestRecord:
    record = connection.scope["state"][_KEY]
    assert isinstance(record, RequestRecord)
    return record
