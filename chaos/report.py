"""The report: 80 columns of text, and JSON."""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

import msgspec

from chaos.configuration import CROWD
from chaos.observations import Asked, Discrepancy, Ending, Observations
from chaos.reconciliation import Books
from chaos.reconciliation.capacity import calls_through
from chaos.reconciliation.ledgers import Row
from chaos.reconciliation.leftovers import growth_bytes
from chaos.run import Outcome

_WIDTH: Final = 80
_WORST: Final = 5
_SHOWN: Final = 50
"""Discrepancies of one kind that the text shows; the JSON has all."""
_IDS: Final = 6


def render(outcome: Outcome, books: Books, found: Sequence[Discrepancy]) -> str:
    parts = [
        _render_head(outcome),
        _render_thrown(outcome),
        _render_answers(outcome.observed),
        _render_phases(outcome.observed),
        _render_books(books),
        _render_rest(outcome.observed),
        _render_discrepancies(found),
    ]
    return "\n".join(line.rstrip() for part in parts for line in [*part, ""])


def render_json(outcome: Outcome, books: Books, found: Sequence[Discrepancy]) -> bytes:
    told = {
        "seed": outcome.seed,
        "without": list(outcome.without),
        "load_s": round(outcome.load_s, 1),
        "total_s": round(outcome.total_s, 1),
        "thrown": [asdict(one) for one in outcome.thrown],
        "left_out": [asdict(one) for one in outcome.left_out],
        "requests": dict(_endings(outcome.observed)),
        "books": {
            "accounts": {name: _row(row) for name, row in sorted(books.rows.items())},
            "total": _row(books.total),
            "tenants": {"images": books.sums_images, "usd_micros": books.sums_usd_micros},
            "not_billed_because": dict(books.causes),
        },
        "overloads": [asdict(one) for one in outcome.observed.overloads],
        "outages": [
            asdict(one) | {"calls_through": calls_through(outcome.observed, one)} for one in outcome.observed.outages
        ],
        "recovery": [asdict(one) for one in outcome.observed.recovery],
        "worst_latencies": [
            {"request_id": one.id, "seconds": round(one.ended_s - one.sent_s, 3), "status": one.status}
            for one in _slowest(outcome.observed)
        ],
        "discrepancies": [asdict(one) for one in found],
    }
    return msgspec.json.format(msgspec.json.encode(told)) + b"\n"


def _row(row: Row) -> dict[str, int]:
    return asdict(row) | {"ledger": row.ledger}


def _render_head(outcome: Outcome) -> Iterator[str]:
    yield f"Chaos run, seed {outcome.seed}: {outcome.load_s:.0f} s of load, {outcome.total_s:.0f} s in all"
    if outcome.without:
        yield f"without {', '.join(outcome.without)}"


def _render_thrown(outcome: Outcome) -> Iterator[str]:
    yield "Injected faults (seconds since the beginning)"
    by_kind = defaultdict[str, list[str]](list)
    for one in outcome.thrown:
        what = one.fault.kind + (f" {one.fault.number}" if one.fault.kind == "poison" else "")
        lasting = f"+{one.fault.seconds:.1f}" if one.fault.seconds else ""
        by_kind[what].append(f"{one.at_s:.0f}{lasting}")
    for kind, moments in sorted(by_kind.items()):
        yield from textwrap.wrap(
            f"  {kind:22} {len(moments):3}x  at {', '.join(moments)}", _WIDTH, subsequent_indent=" " * 32
        )
    if outcome.left_out:
        told = f"  left out, as the time was over: {', '.join(str(fault) for fault in outcome.left_out)}"
        yield from textwrap.wrap(told, _WIDTH, subsequent_indent="    ")
    hung_up = sum(one.ending is Ending.LEFT for one in outcome.observed.asked)
    yield f"  {'clients that disconnected':22} {hung_up:3}x"


def _render_answers(observed: Observations) -> Iterator[str]:
    asked = observed.asked
    yield f"Clients: {len(asked)} requests"
    for name, count in _endings(observed).most_common():
        yield f"  {count:6}  {name}"
    times = sorted(one.ended_s - one.sent_s for one in asked if one.ending is Ending.ANSWERED and not one.batch)
    if times:
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        yield f"  answered in {p50:.2f} s (half), {p99:.2f} s (99 of 100), {times[-1]:.2f} s (all)"
    repeated = [one for one in asked if one.attempts]
    attempts = [attempt for one in repeated for attempt in one.attempts]
    replays = sum(one.is_replayed for one in attempts)
    yield f"  {len(repeated)} of them were repeated: {len(attempts)} attempts, {replays} replays"
    statuses = Counter(batch.status for batch in observed.batches)
    ended = ", ".join(f"{count} {status or 'not created'}" for status, count in sorted(statuses.items()))
    output, errors = (sum(len(getattr(one, name)) for one in observed.batches) for name in ("output", "errors"))
    yield f"  {len(observed.batches)} batches: {ended or 'none'}; {output} lines with pictures, {errors} without"
    yield "  the slowest: " + ", ".join(f"{one.ended_s - one.sent_s:.1f} s {one.id}" for one in _slowest(observed)[:2])


def _endings(observed: Observations) -> Counter[str]:
    found = Counter[str]()
    for one in observed.asked:
        if one.ending is not Ending.ANSWERED:
            found[one.ending.value] += 1
        else:
            found["pictures" if one.is_success else f"{one.wire} {one.status or 'event'} {one.code}"] += 1
    return found


def _slowest(observed: Observations) -> list[Asked]:
    answered = [one for one in observed.asked if one.ending is Ending.ANSWERED and not one.batch]
    return sorted(answered, key=lambda one: one.sent_s - one.ended_s)[:_WORST]


def _render_phases(observed: Observations) -> Iterator[str]:
    yield "Overloads, outages longer than a lease, steps of Redis's clock"
    for one in observed.overloads:
        asked = [other for other in observed.asked if one.since_s <= other.sent_s < one.until_s]
        pictures = sum(other.is_success for other in asked)
        yield f"  overload of {one.until_s - one.since_s:.0f} s: {len(asked)} requests, {pictures} with pictures,"
        each = f"{one.scripts.commands_each:.0f} commands and {one.scripts.cpu_ms_each:.2f} ms of CPU each"
        yield f"    {one.scripts.count} scripts, {each}, the slowest {1000 * one.scripts.slowest_s:.0f} ms;"
        yield f"    circuit breakers for Redis opened: {one.breakers_opened}; own lag {1000 * one.lag_s:.0f} ms"
    for outage in observed.outages:
        seconds, count = outage.until_s - outage.since_s, calls_through(observed, outage)
        yield f"  outage of {seconds:.1f} s: {count} calls in flight from before it until after it"
    yield f"  the clock was stepped {len(observed.clock_steps_s)} times"


def _render_books(books: Books) -> Iterator[str]:
    yield "The books, images"
    yield "  account  invoice + unbilled = delivered  withheld  unconfirmed  lost"
    for name, row in [*_by_account(books), ("total", books.total)]:
        yield (
            f"  {name:7}  {row.billed:7} + {row.unbilled:8} = {row.delivered:9}  {row.withheld:8}  {row.unconfirmed:11}"
            f"  {row.lost:4}"
        )
    yield f"  the tenants' daily sums: {books.sums_images} images, {books.sums_usd_micros} micro-dollars"
    total = books.total
    yield (
        f"  micro-dollars: {total.billed_usd_micros} + {total.unbilled_usd_micros} unbilled"
        f" = {total.ledger_usd_micros} in the ledger"
    )
    if books.causes:
        yield "  unbilled: unconfirmed in the ledger, and on no invoice, because of"
    for cause, count in books.causes.most_common():
        yield f"  {count:6}  {cause}"


def _by_account(books: Books) -> Iterator[tuple[str, Row]]:
    """Yields rows by account; the overload's accounts are one row."""
    crowd = Row()
    for name, row in sorted(books.rows.items()):
        if name in CROWD.accounts:
            crowd.add(row)
        else:
            yield name, row
    if crowd != Row():
        yield CROWD.name, crowd


def _render_rest(observed: Observations) -> Iterator[str]:
    bills = sorted((name, bill) for name, bill in observed.invoice.items() if name not in CROWD.accounts)
    peaks = [f"{name} {bill.peak_per_minute}" for name, bill in bills]
    yield from textwrap.wrap(f"Most requests in 60 s: {', '.join(peaks)}", _WIDTH)
    served, pictures = (
        max((getattr(one, name) or float("inf") for one in observed.recovery), default=0.0)
        for name in ("served_s", "picture_s")
    )
    yield f"After the last fault all served within {served:.1f} s, and made pictures within {pictures:.1f} s"
    for what, is_meant in (("gateways", True), ("the provider and Redis", False)):
        own = [one for one in observed.processes if (one.number is not None) is is_meant]
        growths = [growth for one in own if (growth := growth_bytes(one)) is not None]
        if growths:
            yield f"Memory of {what}: at most {max(growths) / 2**20:+.1f} MiB; {len(growths)} lived long enough"


def _render_discrepancies(found: Sequence[Discrepancy]) -> Iterator[str]:
    if not found:
        yield "No discrepancy."
        return
    yield f"{len(found)} DISCREPANCIES"
    shown = Counter[str]()
    for one in found:
        shown[one.what] += 1
        if shown[one.what] > _SHOWN:
            continue
        ids = ", ".join(one.request_ids[:_IDS]) + (", ..." if len(one.request_ids) > _IDS else "")
        text = f"- {one.what}: {one.detail}" + (f" [{ids}]" if ids else "")
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    for what, count in shown.items():
        if count > _SHOWN:
            yield f"  and {count - _SHOWN} more: {what}"
