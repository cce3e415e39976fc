"""Request traces: calls, waits and spans, and the W3C trace context."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.errors import ErrorCode

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
"""Version, trace, parent, flags. A later version may append more (W3C Trace Context, 3.2 and 4.3)."""
_TRACESTATE: Final = re.compile(r"[\x20-\x7e\t]{1,512}", re.ASCII)
"""Propagated unread. Every participant must be able to propagate 512 characters (W3C Trace Context, 3.3.1.5)."""
_NO_TRACE, _NO_SPAN, _SAMPLED = "0" * 32, "0" * 16, 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The position of one span in a trace; IDs in hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str = ""  # empty if the trace begins here
    flags: str = "01"
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        return bool(int(self.flags, 16) & _SAMPLED)

    def headers(self, span_id: str) -> dict[str, str]:
        """Renders the headers of a call that the span `span_id` makes."""
        headers = {"traceparent": f"00-{self.trace_id}-{span_id}-{self.flags}"}
        return headers | {"tracestate": self.state} if self.state else headers


def parse_trace_context(traceparent: str, tracestate: str, span_id: str) -> TraceContext | None:
    """Parses the headers of a request whose own span is `span_id`. None if they are missing or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if not match:
        return None
    version, trace_id, parent_id, flags, extension = match.groups()
    if version == "ff" or (version == "00" and extension) or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    known_flags = f"{int(flags, 16) & _SAMPLED:02x}"
    state = tracestate.strip() if _TRACESTATE.fullmatch(tracestate) else ""
    return TraceContext(trace_id, span_id, parent_id, known_flags, state)


@dataclass(slots=True)
class Attempt:
    """One upstream call with its downloads; times in monotonic seconds."""

    upstream: str
    account: str
    key: str  # the provider key's fingerprint
    images: int
    span_id: str
    started_s: float
    ended_s: float | None = None
    error_code: ErrorCode | None = None
    was_sent: bool = True  # the call may have reached the upstream


@dataclass(slots=True)
class Interval:
    """An interval in monotonic seconds."""

    started_s: float
    ended_s: float = 0.0


@dataclass(slots=True)
class Trace:
    """The calls and waits of one request, for headers, log and metrics. Filled while the job runs, also if it fails.

    Calls of one job may overlap, so waits and calls are stored as (start, end) in monotonic seconds.
    """

    context: TraceContext | None = None  # None if the request has no trace and none is started
    new_span_id: Callable[[], str] = str  # 16 hexadecimal digits
    waits: list[tuple[float, float]] = field(default_factory=list)
    tried: list[Attempt] = field(default_factory=list)
    """Every call, oldest first, including calls that could not be sent."""
    admit: Interval | None = None
    settle: Interval | None = None

    def begin(self, upstream: str, account: str, key: str, images: int, now_s: float) -> Attempt:
        """Records a call that is about to be sent."""
        span_id = self.new_span_id() if self.context else ""
        attempt = Attempt(upstream, account, key, images, span_id, now_s)
        self.tried.append(attempt)
        return attempt

    @property
    def calls(self) -> list[tuple[float, float]]:
        return [(call.started_s, call.ended_s) for call in self.tried if call.ended_s is not None]

    @property
    def attempts(self) -> int:
        """Calls sent upstream."""
        return sum(attempt.was_sent for attempt in self.tried)

    @property
    def upstream_s(self) -> float:
        """Seconds in which at least one call was in flight."""
        return covered(self.calls)

    @property
    def queue_s(self) -> float:
        """Seconds in which the job only waited for an account."""
        calls = self.calls
        return covered([*self.waits, *calls]) - covered(calls)


def covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0]
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True, slots=True)
class Span:
    """One span of a request; times in monotonic seconds."""

    name: str
    kind: Literal["SERVER", "INTERNAL", "CLIENT"]  # as OpenTelemetry names it
    span_id: str
    parent_id: str  # empty for the root span
    started_s: float
    ended_s: float
    attributes: Mapping[str, str | int | float]
    error_code: str = ""
