"""Reports a request after its response: metrics, the canonical log line, and spans."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import Scope

from gateway.domain.billing import usd
from gateway.domain.errors import ERROR_SPECS, ErrorCode
from gateway.domain.tracing import Span, TraceContext
from gateway.generation.context import RequestContext
from gateway.metering.refusals import Refusal
from gateway.observability.metrics import Metrics

_LOG = structlog.get_logger("imagegate.request")
_PROMPT_MAX_CHARS: Final = 500
_CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's status for a client that disconnects before its response."""
_ADDRESS_MAX_CHARS: Final = 64
"""A trusted proxy may send any text."""
_UNKNOWN_ROUTE: Final = "_unknown"
_REFUSED_KEYS: Final = frozenset(
    {
        *(ErrorCode.INVALID_API_KEY, ErrorCode.ADMIN_UNAUTHORIZED, ErrorCode.INVITATION_INVALID),
        ErrorCode.AUTHENTICATION_THROTTLED,
    }
)
_IMAGES: Final = re.compile(r"(/v1|/minimaxi/v1|/console)/image(s/(generations|edits)|_generation)\Z")
"""Routes of requests for images."""
_QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Generators of IDs, and the settings of logs and spans."""

    new_request_id: Callable[[], str]
    new_trace_id: Callable[[], str]
    """32 hexadecimal digits."""
    new_span_id: Callable[[], str]
    """16 hexadecimal digits."""
    logs_prompts: bool = False
    logs_client_address: bool = False
    send_spans: Callable[[TraceContext, Iterable[Span]], None] | None = None
    """None if no spans are collected."""
    note_refusal: Callable[[Refusal], None] | None = None
    """Keeps a refused request for images; None: none is kept."""


def report_request(
    scope: Scope, context: RequestContext, total_s: float, metrics: Metrics, telemetry: Telemetry
) -> None:
    """Updates the metrics, logs the request and sends the spans."""
    # The route's template, never the caller's path, as it is a metric label.
    route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE).replace(":path}", "}")
    client = str((scope.get("client") or ("",))[0])[:_ADDRESS_MAX_CHARS]
    status = context.status = _CLIENT_CLOSED_REQUEST if context.is_unheard else context.status or _CLIENT_CLOSED_REQUEST
    if context.left_s is not None:
        context.error_code = context.error_code or ErrorCode.CLIENT_DISCONNECTED
    error_code, trace = context.error_code, context.trace
    metrics.requests.labels(route, context.model, context.tenant, str(status)).inc()
    metrics.request_duration_seconds.labels(route).observe(total_s)
    if error_code:
        metrics.request_errors.labels(error_code.value, ERROR_SPECS[error_code].origin.value, context.tenant).inc()
        if telemetry.note_refusal and _is_refused(route, context, error_code):
            telemetry.note_refusal(_refusal(context, error_code))
    overhead_s = max(0.0, total_s - trace.upstream_s - trace.queue_s)
    if context.asked and not context.replayed:  # a replay waits for another request, not for the gateway
        metrics.queue_wait_seconds.observe(trace.queue_s)
        metrics.overhead_seconds.observe(overhead_s)
    is_quiet, log = route in _QUIET_ROUTES, _LOG.info
    if status >= 500:
        log = _LOG.warning
    elif error_code is ErrorCode.REQUESTS_THROTTLED or (
        is_quiet and (status < 400 or error_code is ErrorCode.CLIENT_DISCONNECTED)
    ):
        log = _LOG.debug
    fields = {"method": scope["method"], "route": route, "status": status} | _line(context, client, telemetry)
    if context.asked:
        fields |= _job(context) | {"overhead_ms": round(1000 * overhead_s)}
    log("request", **fields | {"total_ms": round(1000 * total_s)})
    if error_code in _REFUSED_KEYS:  # for fail2ban: the native routes return HTTP 200 for a wrong key
        _LOG.warning("authentication_failed", client=client, route=route, error_code=error_code.value)
    if telemetry.send_spans and trace.context and not is_quiet:
        telemetry.send_spans(trace.context, _spans(context, trace.context, scope["method"], route, total_s))


def _is_refused(route: str, context: RequestContext, error_code: ErrorCode) -> bool:
    """Returns whether a request for images ended before anything was sent upstream: the ledger has no record of it."""
    if error_code is ErrorCode.CLIENT_DISCONNECTED or context.replayed or not _IMAGES.match(route):
        return False
    return not any(attempt.was_sent for attempt in context.trace.tried)


def _refusal(context: RequestContext, error_code: ErrorCode) -> Refusal:
    tenant = context.transfer.caller.tenant.name if context.transfer else ""
    return Refusal(context.id, tenant, context.key_id, context.model, error_code.value, context.param)


def _line(context: RequestContext, client: str, telemetry: Telemetry) -> dict[str, object]:
    fields = {
        "tenant": context.tenant,
        "key_id": context.key_id,
        "admin": context.admin,
        "model": context.model,
        "file_id": context.file_id,
        "error_code": context.error_code.value if context.error_code else "",
        "param": context.param,
        "replayed": context.replayed,
        "detail": context.detail,
        "left_ms": 0 if context.left_s is None else max(1, round(1000 * (context.left_s - context.started_s))),
        "client": client if telemetry.logs_client_address else "",
        "prompt": context.prompt[:_PROMPT_MAX_CHARS] if telemetry.logs_prompts else "",
    }
    return {name: value for name, value in fields.items() if value}


def _job(context: RequestContext) -> dict[str, object]:
    """Renders the job and the outcome of its reservation. The charge is unknown while Redis is unavailable."""
    trace, reservation = context.trace, context.reservation
    job: dict[str, object] = {"stream": context.is_stream, "images_requested": context.asked}
    job["delivered"] = context.delivered
    if reservation:
        tally = reservation.tally
        job |= {"withheld": tally.total("withheld"), "lost": tally.total("lost")}
        job |= {"unconfirmed": tally.total("unconfirmed"), "settlement": tally.settlement.value}
        is_settled = reservation.charged_usd_micros is not None
        job |= {"usd": usd(reservation.charged_usd_micros or 0)} if is_settled else {"settled": False}
    calls = [
        {
            "upstream": attempt.upstream,
            "account": attempt.account,
            "key": attempt.key,
            "images": attempt.images,
            "ms": round(1000 * ((attempt.ended_s or attempt.started_s) - attempt.started_s)),
            "error_code": attempt.error_code.value if attempt.error_code else "",
            "span_id": attempt.span_id,
        }
        for attempt in trace.tried
    ]
    return job | {
        "attempts": trace.attempts,
        "calls": [{name: value for name, value in call.items() if value != ""} for call in calls],
        "admit_ms": round(1000 * (trace.admit.ended_s - trace.admit.started_s)) if trace.admit else 0,
        "queue_ms": round(1000 * trace.queue_s),
        "upstream_ms": round(1000 * trace.upstream_s),
        "settle_ms": round(1000 * (trace.settle.ended_s - trace.settle.started_s)) if trace.settle else 0,
    }


def _spans(context: RequestContext, position: TraceContext, method: str, route: str, total_s: float) -> Iterator[Span]:
    """Renders the request's span, then its child spans. None holds a prompt or a secret."""
    trace, own, ended_s = context.trace, position.span_id, context.started_s + total_s
    error_code = context.error_code.value if context.error_code else ""
    yield Span(
        f"{method} {route}",
        "SERVER",
        own,
        position.parent_id,
        context.started_s,
        ended_s,
        _attributes(context, method, route, error_code),
        error_code if context.status >= 500 else "",
    )
    passages = [
        *([("admit", trace.admit.started_s, trace.admit.ended_s)] if trace.admit else []),
        *(("queue", *wait) for wait in trace.waits),
        *([("settle", trace.settle.started_s, trace.settle.ended_s)] if trace.settle else []),
    ]
    for name, start_s, end_s in passages:
        yield Span(name, "INTERNAL", trace.new_span_id(), own, start_s, end_s, {})
    for attempt in trace.tried:
        yield Span(
            "attempt",
            "CLIENT",
            attempt.span_id,
            own,
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


def _attributes(context: RequestContext, method: str, route: str, error_code: str) -> Mapping[str, str | int | float]:
    """Uses OpenTelemetry's names if there are any (semantic conventions for HTTP servers)."""
    charged = context.reservation.charged_usd_micros if context.reservation else None
    attributes: dict[str, str | int | float] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": context.status,
        "imagegate.request_id": context.id,
        "imagegate.tenant": context.tenant,
        "imagegate.key_id": context.key_id,
        "imagegate.model": context.model,
        "imagegate.fault": error_code,
        "imagegate.images_asked": context.asked or "",
        "imagegate.images_delivered": context.delivered if context.asked else "",
        "imagegate.usd": "" if charged is None else usd(charged),
    }
    return {name: value for name, value in attributes.items() if value != ""}
