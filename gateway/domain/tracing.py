"""What happened to a request on its way, and W3C's words for the trace that it is a part of."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from gateway.domain.errors import ErrorCode

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
"""Version, trace, parent, flags; a later version may have more behind them (W3C Trace Context, 3.2 and 4.3)."""
_TRACESTATE: Final = re.compile(r"[\x20-\x7e\t]{1,512}", re.ASCII)
"""Passed on unread. 512 characters are what everybody must be able to pass on (W3C Trace Context, 3.3.1.5)."""
_NO_TRACE, _NO_SPAN, _SAMPLED = "0" * 32, "0" * 16, 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The place of one span in a trace; ids in hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty where the trace begins here."""
    flags: str = "01"
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        return bool(int(self.flags, 16) & _SAMPLED)

    def headers(self, span_id: str) -> dict[str, str]:
        """What the next program is told, where `span_id` is the one that calls it."""
        headers = {"traceparent": f"00-{self.trace_id}-{span_id}-{self.flags}"}
        return headers | {"tracestate": self.state} if self.state else headers


def parse_trace_context(traceparent: str, tracestate: str, span_id: str) -> TraceContext | None:
    """What came with a request, for whose own span `span_id` is; None where the header is missing or malformed."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if not found:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    known_flags = f"{int(flags, 16) & _SAMPLED:02x}"
    state = tracestate.strip() if _TRACESTATE.fullmatch(tracestate) else ""
    return TraceContext(trace_id, span_id, parent_id, known_flags, state)


@dataclass(slots=True)
class Attempt:
    """One call to an upstream, its pictures fetched; times are monotonic seconds."""

    upstream: str
    account: str
    key: str
    """Its fingerprint."""
    images: int
    span_id: str
    started_s: float
    ended_s: float | None = None
    error_code: ErrorCode | None = None
    was_sent: bool = True
    """Not known to have never reached the upstream."""


@dataclass(slots=True)
class Interval:
    """A stretch of time, monotonic seconds."""

    started_s: float
    ended_s: float

    @classmethod
    def begin(cls, now_s: float) -> Self:
        return cls(now_s, now_s)

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s


@dataclass(slots=True)
class Trace:
    """What happened on the way, for headers, log and metrics; filled while the job runs, also when it fails.

    Calls of one job may overlap, so waits and calls are kept as spans (start, end) in monotonic seconds.
    """

    context: TraceContext | None = None
    """None where no trace came and none is begun here."""
    new_span_id: Callable[[], str] = str
    """16 hexadecimal digits."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    tried: list[Attempt] = field(default_factory=list)
    """Every call, oldest first, also one that could not be sent."""
    admit: Interval | None = None
    settle: Interval | None = None
    _measured: tuple[float, float] = (0.0, 0.0)
    _measured_extent: tuple[int, int] = (0, 0)
    """Waits and ended calls that were measured."""

    def begin(self, upstream: str, account: str, key: str, images: int, now_s: float) -> Attempt:
        """A call is about to be sent."""
        span_id = self.new_span_id() if self.context else ""
        attempt = Attempt(upstream, account, key, images, span_id, now_s)
        self.tried.append(attempt)
        return attempt

    def headers_of(self, attempt: Attempt) -> Mapping[str, str]:
        """What an upstream is told of the trace: nothing where there is none."""
        return self.context.headers(attempt.span_id) if self.context else {}

    @property
    def calls(self) -> list[tuple[float, float]]:
        return [(attempt.started_s, attempt.ended_s) for attempt in self.tried if attempt.ended_s is not None]

    @property
    def attempts(self) -> int:
        """Calls sent upstream."""
        return sum(attempt.was_sent for attempt in self.tried)

    @property
    def upstream_s(self) -> float:
        """Time in which at least one call was under way."""
        return self._measure()[0]

    @property
    def queue_s(self) -> float:
        """Time in which the job did nothing but wait for a key."""
        return self._measure()[1]

    def _measure(self) -> tuple[float, float]:
        """The last two, measured anew where there is more to measure: header, ledger, log and metrics ask in turn."""
        calls = self.calls
        extent = len(self.waits), len(calls)
        if extent != self._measured_extent:
            upstream_s = covered(calls)
            self._measured = upstream_s, covered([*self.waits, *calls]) - upstream_s
            self._measured_extent = extent
        return self._measured


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0]
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class SpanKind(Enum):
    """On which side of a call a span stands."""

    SERVER = "server"
    INTERNAL = "internal"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of a request as a trace shows it; times are monotonic seconds."""

    name: str
    kind: SpanKind
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    started_s: float
    ended_s: float
    attributes: Mapping[str, str | int | float]
    error_code: str = ""
