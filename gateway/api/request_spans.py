"""Spans of one request: request, admission, waits, calls and settlement. They hold no prompts or secrets."""

from collections.abc import Iterator, Mapping

from gateway.api.request_log import ResponseInfo
from gateway.domain.billing import usd
from gateway.domain.tracing import Attempt, Interval, Span, Trace, TraceContext
from gateway.generation.context import RequestContext

Attributes = Mapping[str, str | int | float]


def spans_of(request: RequestContext, context: TraceContext, response: ResponseInfo) -> Iterator[Span]:
    """Renders the request's span, then its child spans."""
    ended_s = request.started_s + response.total_s
    yield Span(
        f"{response.method} {response.route}",
        "SERVER",
        context.span_id,
        context.parent_id,
        request.started_s,
        ended_s,
        _request(request, response),
        request.error_code.value if request.error_code and response.status >= 500 else "",
    )
    for name, passage in _passages(request.trace):
        span_id, parent_id = request.trace.new_span_id(), context.span_id
        yield Span(name, "INTERNAL", span_id, parent_id, passage.started_s, passage.ended_s, {})
    for attempt in request.trace.tried:
        yield _attempt(attempt, context, ended_s)


def _passages(trace: Trace) -> Iterator[tuple[str, Interval]]:
    if trace.admit:
        yield "admit", trace.admit
    for started_s, ended_s in trace.waits:
        yield "queue", Interval(started_s, ended_s)
    if trace.settle:
        yield "settle", trace.settle


def _attempt(attempt: Attempt, context: TraceContext, ended_s: float) -> Span:
    return Span(
        "attempt",
        "CLIENT",
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
        attempt.error_code.value if attempt.error_code else "",
    )


def _request(request: RequestContext, response: ResponseInfo) -> Attributes:
    """Uses OpenTelemetry's names if there are any (semantic conventions for HTTP servers)."""
    attributes: dict[str, str | int | float] = {
        "http.request.method": response.method,
        "http.route": response.route,
        "http.response.status_code": response.status,
        "imagegate.request_id": request.id,
        "imagegate.tenant": request.tenant,
        "imagegate.key_id": request.key_id,
        "imagegate.model": request.model,
        "imagegate.fault": request.error_code.value if request.error_code else "",
    }
    if request.asked:
        attributes |= {"imagegate.images_asked": request.asked, "imagegate.images_delivered": request.delivered}
    if request.reservation and request.reservation.charged_usd_micros is not None:
        attributes["imagegate.usd"] = usd(request.reservation.charged_usd_micros)
    return {name: value for name, value in attributes.items() if value != ""}
