"""The spans of one request: itself, its admission, its waits, its calls and its settlement; no prompts, no secrets."""

from collections.abc import Iterator, Mapping

from gateway.domain.billing import usd
from gateway.domain.trace import Attempt, Passage, Span, SpanKind, Trace, TraceContext
from gateway.web.record import Answered, RequestRecord

Attributes = Mapping[str, str | int | float]


def spans_of(record: RequestRecord, context: TraceContext, answered: Answered) -> Iterator[Span]:
    """The request first, its parts as its children."""
    ended_s = record.started_s + answered.total_s
    yield Span(
        f"{answered.method} {answered.route}",
        SpanKind.SERVER,
        context.span_id,
        context.parent_id,
        record.started_s,
        ended_s,
        _request(record, answered),
        record.fault.value if record.fault and answered.status >= 500 else "",
    )
    for name, passage in _passages(record.trace):
        span_id, parent_id = record.trace.new_span_id(), context.span_id
        yield Span(name, SpanKind.INTERNAL, span_id, parent_id, passage.started_s, passage.ended_s, {})
    for attempt in record.trace.tried:
        yield _attempt(attempt, context, ended_s)


def _passages(trace: Trace) -> Iterator[tuple[str, Passage]]:
    if trace.admit:
        yield "admit", trace.admit
    for started_s, ended_s in trace.waits:
        yield "queue", Passage(started_s, ended_s)
    if trace.settle:
        yield "settle", trace.settle


def _attempt(attempt: Attempt, context: TraceContext, ended_s: float) -> Span:
    return Span(
        "attempt",
        SpanKind.CLIENT,
        attempt.span_id,
        context.span_id,
        attempt.started_s,
        ended_s if attempt.ended_s is None else attempt.ended_s,
        {
            "imagegate.upstream": attempt.upstream,
            "imagegate.account": attempt.account,
            "imagegate.key": attempt.key,
            "imagegate.images": attempt.images,
        },
        attempt.fault.value if attempt.fault else "",
    )


def _request(record: RequestRecord, answered: Answered) -> Attributes:
    """OpenTelemetry's names where it has some (semantic conventions for HTTP servers)."""
    attributes: dict[str, str | int | float] = {
        "http.request.method": answered.method,
        "http.route": answered.route,
        "http.response.status_code": answered.status,
        "imagegate.request_id": record.id,
        "imagegate.tenant": record.tenant,
        "imagegate.key_id": record.key_id,
        "imagegate.model": record.model,
        "imagegate.fault": record.fault.value if record.fault else "",
    }
    if record.asked:
        attributes |= {"imagegate.images_asked": record.asked, "imagegate.images_delivered": record.delivered}
    if record.ticket and record.ticket.charged_usd_micros is not None:
        attributes["imagegate.usd"] = usd(record.ticket.charged_usd_micros)
    return {name: value for name, value in attributes.items() if value != ""}
