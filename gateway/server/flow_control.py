"""What a connection reads and holds while requests that its client pipelined wait for the responses before theirs.

uvicorn reads on after each response and adds what comes to the body of the last request, which no program reads yet.
It also keeps the last request of an idle connection, with the part of its body that no program read.
"""

from collections.abc import Iterable
from typing import NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class BlockableFlow(FlowControl):
    """uvicorn's flow control, which can be kept from reading."""

    is_blocked = False
    """Nothing is read, whatever a program or uvicorn asks for."""

    def resume_reading(self) -> None:
        if not self.is_blocked:
            super().resume_reading()


class Unanswered(NamedTuple):
    """A request without a complete response."""

    cycle: RequestResponseCycle
    head_bytes: int
    fields: int


def measure(requests: Iterable[Unanswered]) -> tuple[int, int]:
    """Returns how many bytes requests hold that were received and not read, and how many header fields."""
    held_bytes = fields = 0
    for request in requests:
        held_bytes += len(request.cycle.body) + request.head_bytes
        fields += request.fields
    return held_bytes, fields


def empty(cycle: RequestResponseCycle) -> None:
    """Drops what an answered request holds: its program has the scope, and gets no body after the response."""
    cycle.body = bytearray()
    cycle.scope = {}  # type: ignore[typeddict-item] # it is read no more
