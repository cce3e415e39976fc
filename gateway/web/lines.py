"""The log line of one request: why it was slow, refused or expensive."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.trace import Attempt, Trace
from gateway.stores.tickets import Ticket
from gateway.upstream.context import RequestContext

_PROMPT_MAX_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class LineTerms:
    """Private fields that the operator wants in the line."""

    prompts: bool = False
    client_address: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request ended."""

    method: str
    route: str
    """As it is configured, never the caller's path: it is a metric label."""
    status: int
    total_s: float
    client: str = ""
    """Its address."""

    def own_s(self, trace: Trace) -> float:
        """Time in which it waited neither for an account nor for an upstream."""
        return max(0.0, self.total_s - trace.upstream_s - trace.queue_s)


def request_line(context: RequestContext, answered: Answered, terms: LineTerms) -> dict[str, object]:
    """Renders the fields of the line. Empty fields are omitted, except those of a job, which may be 0."""
    optional = {
        "tenant": context.tenant,
        "key_id": context.key_id,
        "admin": context.admin,
        "model": context.model,
        "fault": context.fault.value if context.fault else "",
        "param": context.param,
        "detail": context.detail,
        "client": answered.client if terms.client_address else "",
        "prompt": context.prompt[:_PROMPT_MAX_CHARS] if terms.prompts else "",
    }
    line: dict[str, object] = {"method": answered.method, "route": answered.route, "status": answered.status}
    line |= {name: value for name, value in optional.items() if value}
    if context.asked:
        line |= _job(context, answered)
    return line | {"total_ms": _ms(answered.total_s)}


def _job(context: RequestContext, answered: Answered) -> dict[str, object]:
    trace = context.trace
    return {
        "stream": context.is_stream,
        "asked": context.asked,
        "delivered": context.delivered,
        **(_purchase(context.reservation) if context.reservation else {}),
        "attempts": trace.attempts,
        "calls": [_call(attempt) for attempt in trace.tried],
        "admit_ms": _ms(trace.admit.seconds if trace.admit else 0.0),
        "queue_ms": _ms(trace.queue_s),
        "upstream_ms": _ms(trace.upstream_s),
        "settle_ms": _ms(trace.settle.seconds if trace.settle else 0.0),
        "own_ms": _ms(answered.own_s(trace)),
    }


def _purchase(ticket: Ticket) -> dict[str, object]:
    """Renders the outcome of the reserved images, and their charge, which is unknown while Redis is unavailable."""
    tally = ticket.tally
    bought: dict[str, object] = {name: tally.total(name) for name in ("withheld", "lost", "unconfirmed")}
    bought["settlement"] = tally.settlement.value
    if ticket.charged_usd_micros is None:
        return bought | {"settled": False}
    return bought | {"usd": usd(ticket.charged_usd_micros)}


def _call(attempt: Attempt) -> dict[str, object]:
    call: dict[str, object] = {
        "upstream": attempt.upstream,
        "account": attempt.account,
        "key": attempt.key,
        "images": attempt.images,
        "ms": _ms((attempt.ended_s or attempt.started_s) - attempt.started_s),
    }
    if attempt.fault:
        call["fault"] = attempt.fault.value
    if attempt.span_id:
        call["span_id"] = attempt.span_id
    return call


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
