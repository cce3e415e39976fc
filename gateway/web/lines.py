"""The log line of one request: why it was slow, refused or expensive."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.trace import Attempt, Passage
from gateway.stores.tickets import Ticket
from gateway.web.record import Answered, RequestRecord

_PROMPT_MAX_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class LineTerms:
    """What the operator wants to be in the line besides."""

    prompts: bool = False
    client_address: bool = False


def request_line(record: RequestRecord, answered: Answered, terms: LineTerms) -> dict[str, object]:
    """Its fields. What does not concern the request is left out; what a job has, it has also when it is 0."""
    known = {
        "tenant": record.tenant,
        "key_id": record.key_id,
        "admin": record.admin,
        "model": record.model,
        "fault": record.fault.value if record.fault else "",
        "param": record.param,
        "detail": record.detail,
        "client": answered.client if terms.client_address else "",
        "prompt": record.prompt[:_PROMPT_MAX_CHARS] if terms.prompts else "",
    }
    line: dict[str, object] = {"method": answered.method, "route": answered.route, "status": answered.status}
    line |= {name: value for name, value in known.items() if value}
    if record.asked:
        line |= _job(record, answered)
    return line | {"total_ms": _ms(answered.total_s)}


def _job(record: RequestRecord, answered: Answered) -> dict[str, object]:
    trace = record.trace
    return {
        "stream": record.is_stream,
        "asked": record.asked,
        "delivered": record.delivered,
        **(_purchase(record.ticket) if record.ticket else {}),
        "attempts": trace.attempts,
        "calls": [_call(attempt) for attempt in trace.tried],
        "admit_ms": _passage_ms(trace.admit),
        "queue_ms": _ms(trace.queue_s),
        "upstream_ms": _ms(trace.upstream_s),
        "settle_ms": _passage_ms(trace.settle),
        "own_ms": _ms(answered.own_s(trace)),
    }


def _purchase(ticket: Ticket) -> dict[str, object]:
    """What became of the images that were admitted, and what was charged: nothing yet where Redis was away."""
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


def _passage_ms(passage: Passage | None) -> int:
    return _ms(passage.seconds) if passage else 0


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
