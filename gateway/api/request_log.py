"""The canonical log line of one request."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.tracing import Attempt, Trace
from gateway.generation.context import RequestContext

_PROMPT_MAX_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class RequestLogOptions:
    """Settings that add private fields to the line."""

    prompts: bool = False
    client_address: bool = False


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """The response of a request."""

    method: str
    route: str
    """The route's template, never the caller's path, as it is a metric label."""
    status: int
    total_s: float
    client: str = ""
    """The client's address."""

    def overhead_s(self, trace: Trace) -> float:
        """Returns the seconds spent neither in the queue nor in upstream calls."""
        return max(0.0, self.total_s - trace.upstream_s - trace.queue_s)


def request_line(context: RequestContext, response: ResponseInfo, options: RequestLogOptions) -> dict[str, object]:
    """Renders the fields of the line. Empty fields are omitted, except those of a job, which may be 0."""
    optional = {
        "tenant": context.tenant,
        "key_id": context.key_id,
        "admin": context.admin,
        "model": context.model,
        "error_code": context.error_code.value if context.error_code else "",
        "param": context.param,
        "detail": context.detail,
        "client": response.client if options.client_address else "",
        "prompt": context.prompt[:_PROMPT_MAX_CHARS] if options.prompts else "",
    }
    line: dict[str, object] = {"method": response.method, "route": response.route, "status": response.status}
    line |= {name: value for name, value in optional.items() if value}
    if context.asked:
        line |= _job(context, response)
    return line | {"total_ms": milliseconds(response.total_s)}


def _job(context: RequestContext, response: ResponseInfo) -> dict[str, object]:
    """Renders the job and the outcome of its reservation. The charge is unknown while Redis is unavailable."""
    trace, reservation = context.trace, context.reservation
    job: dict[str, object] = {"stream": context.is_stream, "images_requested": context.asked}
    job["delivered"] = context.delivered
    if reservation:
        job |= {name: reservation.tally.total(name) for name in ("withheld", "lost", "unconfirmed")}
        job["settlement"] = reservation.tally.settlement.value
        is_settled = reservation.charged_usd_micros is not None
        job |= {"usd": usd(reservation.charged_usd_micros or 0)} if is_settled else {"settled": False}
    return job | {
        "attempts": trace.attempts,
        "calls": [_call(attempt) for attempt in trace.tried],
        "admit_ms": milliseconds(trace.admit.seconds if trace.admit else 0.0),
        "queue_ms": milliseconds(trace.queue_s),
        "upstream_ms": milliseconds(trace.upstream_s),
        "settle_ms": milliseconds(trace.settle.seconds if trace.settle else 0.0),
        "overhead_ms": milliseconds(response.overhead_s(trace)),
    }


def _call(attempt: Attempt) -> dict[str, object]:
    call: dict[str, object] = {
        "upstream": attempt.upstream,
        "account": attempt.account,
        "key": attempt.key,
        "images": attempt.images,
        "ms": milliseconds((attempt.ended_s or attempt.started_s) - attempt.started_s),
    }
    if attempt.error_code:
        call["error_code"] = attempt.error_code.value
    if attempt.span_id:
        call["span_id"] = attempt.span_id
    return call


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
