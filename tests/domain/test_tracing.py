"""W3C's trace context, and where a request's time went."""

import pytest

from gateway.domain.errors import ErrorCode
from gateway.domain.tracing import Trace, TraceContext, covered, parse_trace_context

TRACE, PARENT, OWN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "01"),
        (f"cc-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", "01"),
    ],
)
def test_a_trace_is_continued(given: str, flags: str) -> None:
    """Flags that nobody knows yet are not passed on, as W3C asks."""
    assert TraceContext(TRACE, OWN, PARENT, flags) == parse_trace_context(given, "", OWN)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "garbage",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01.",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-0g",
        f"cc-{TRACE}-{PARENT}-01-\r\nx-evil: 1",
    ],
)
def test_a_malformed_trace_is_none(given: str) -> None:
    assert parse_trace_context(given, "a=1", OWN) is None


@pytest.mark.parametrize(
    ("state", "kept"), [("a=1,b=2", "a=1,b=2"), (" a=1 ", "a=1"), ("a=é", ""), ("a=1\r\nx: y", ""), ("x" * 513, "")]
)
def test_a_state_is_passed_on_or_left_out(state: str, kept: str) -> None:
    context = parse_trace_context(f"00-{TRACE}-{PARENT}-01", state, OWN)
    assert context
    sent = {"traceparent": f"00-{TRACE}-{'a' * 16}-01"} | ({"tracestate": kept} if kept else {})
    assert sent == context.headers("a" * 16)


def test_without_a_trace_nothing_is_passed_on() -> None:
    trace = Trace()
    attempt = trace.begin("sim", "main", "fp-1", 1, 0)
    assert "" == attempt.span_id


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0.0),
        ([(1, 3)], 2.0),
        ([(1, 3), (5, 6)], 3.0),
        ([(1, 4), (2, 3)], 3.0),
        ([(2, 5), (1, 3)], 4.0),
        ([(1, 1)], 0.0),
    ],
)
def test_overlapping_spans_count_once(spans: list[tuple[float, float]], expected: float) -> None:
    assert expected == covered(spans)


def test_queue_time_is_what_no_call_covers() -> None:
    trace = Trace(waits=[(0, 2), (3, 9)])
    for started_s, ended_s in ((2, 5), (4, 6)):
        trace.begin("sim", "main", "fp-1", 1, started_s).ended_s = ended_s
    assert (trace.attempts, trace.upstream_s, trace.queue_s) == (2, 4.0, 5.0)


def test_a_call_that_was_not_sent_is_no_attempt_but_took_its_time() -> None:
    trace = Trace()
    attempt = trace.begin("sim", "main", "fp-1", 1, 0)
    attempt.ended_s, attempt.error_code, attempt.was_sent = 3, ErrorCode.CONNECT_FAILED, False
    assert (0, 3.0) == (trace.attempts, trace.upstream_s)
