"""Limits what a connection reads and holds while its client's pipelined requests wait for earlier responses.

uvicorn reads on after each response and adds the bytes to the body of the last request, which no program reads yet.
It also holds the last request of an idle connection, with the unread part of its body.
"""

from collections.abc import Iterable
from typing import NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class BlockableFlow(FlowControl):
    """uvicorn's flow control, with reading that can be blocked."""

    is_blocked = False
    """Blocks reading, even if a program or uvicorn resumes it."""

    def resume_reading(self) -> None:
        if not self.is_blocked:
            super().resume_reading()


class Unanswered(NamedTuple):
    """A request without a complete response."""

    cycle: RequestResponseCycle
    head_bytes: int
    fields: int


def measure(requests: Iterable[Unanswered]) -> tuple[int, int]:
    """Returns the received but unread bytes of requests, and the number of their header fields."""
    held_bytes = fields = 0
    for request in requests:
        held_bytes += len(request.cycle.body) + request.head_bytes
        fields += request.fields
    return held_bytes, fields


def empty(cycle: RequestResponseCycle) -> None:
    """Drops the data of a finished request. Its program has the scope, and gets no body after the response."""
    cycle.body = bytearray()
    cycle.scope = {}  # type: ignore[typeddict-item] # it is read no more
