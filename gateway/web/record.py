"""What is known of one request, gathered as it goes: the source of its log line, its metrics and its headers."""

from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from gateway.domain.faults import Fault
from gateway.domain.images import Trace

_KEY: Final = "record"


@dataclass(slots=True)
class RequestRecord:
    """One request."""

    id: str
    started_s: float
    """Monotonic."""
    tenant: str = ""
    key_id: str = ""
    admin: str = ""
    """The name of the admin key that came with it."""
    model: str = ""
    """The configured id, never the caller's spelling: it is a metric label."""
    model_name: str = ""
    """The model as the caller wrote it."""
    asked: int = 0
    delivered: int = 0
    fault: Fault | None = None
    detail: str = ""
    trace: Trace = field(default_factory=Trace)
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Headers that the answer gets whatever it is."""


def attach(scope_state: dict[str, object], record: RequestRecord) -> None:
    scope_state[_KEY] = record


def record_of(connection: HTTPConnection) -> RequestRecord:
    record = connection.scope["state"][_KEY]
    assert isinstance(record, RequestRecord)
    return record
