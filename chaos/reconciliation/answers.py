"""The clients' records: each got a response or disconnected, and what it says about cost is true."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from chaos.ledger_records import Line
from chaos.observations import OWED_S, Asked, Discrepancy, Ending, Observations, Process

_NOTICED_S: Final = 2.0
"""Time from a kill to the end of the client's connection."""


def check_answers(observed: Observations) -> list[Discrepancy]:
    billed = defaultdict[str, int](int)
    for call in observed.calls:
        billed[call.request_id] += call.images
    # An attempt that was refused has a record of its own.
    lines = {line.request_id: line for line in sorted(observed.lines, key=lambda line: line.images)}
    processes = {one.number: one for one in observed.processes if one.number is not None}
    found = list[Discrepancy]()
    for asked in observed.asked:
        found += _check_ending(asked, processes)
        if asked.ending is Ending.ANSWERED:
            own = [processes[number] for number in asked.gateways if number in processes]
            found += _check_answer(asked, lines.get(asked.id), billed[asked.id], own)
    return found


def _check_ending(asked: Asked, processes: Mapping[int, Process]) -> Iterator[Discrepancy]:
    if asked.ending is Ending.LATE:
        yield Discrepancy("no answer", f"in {asked.ended_s - asked.sent_s:.0f} s", (asked.id,))
    if asked.ending is not Ending.BROKEN:  # of a request that was repeated, see replays.py
        return
    process = processes.get(asked.gateway) if asked.gateway is not None else None
    if process is None or not process.was_killed(asked.sent_s, asked.ended_s + _NOTICED_S):
        where = f"gateway {asked.gateway}" if process else "nobody"
        yield Discrepancy("a connection broke, and nobody was killed", f"{where}: {asked.detail}", (asked.id,))


def _check_answer(asked: Asked, line: Line | None, billed: int, processes: Sequence[Process]) -> Iterator[Discrepancy]:
    """`billed` is the number of images made for it, without withheld ones."""
    if asked.status == 500 or asked.code in {"internal_error", "unreadable", "empty stream"}:
        yield Discrepancy("an answer that must not be", f"{asked.status} {asked.code} {asked.detail}", (asked.id,))
    delivered = line.delivered if line else 0
    if asked.is_success:
        is_one = asked.purchases_max == 1
        if is_one and asked.pictures != delivered and not _is_settled_by_others(asked, line, processes):
            detail = f"the client has {asked.pictures}, the ledger {delivered} delivered"
            yield Discrepancy("the client's pictures are not the ledger's", detail, (asked.id,))
    elif delivered and _is_line_cut_off(asked, processes):
        return
    elif delivered:
        yield Discrepancy(
            "delivered, says the ledger, and the client got an error", f"{asked.status} {asked.code}", (asked.id,)
        )
    elif not asked.may_have_cost and billed:
        detail = f"{asked.status} {asked.code}, billed {billed}"
        yield Discrepancy("an answer that says it was free, and was not", detail, (asked.id,))
    elif not asked.may_have_cost and line and line.unconfirmed and not _is_settled_by_others(asked, line, processes):
        detail = f"{asked.status} {asked.code}, {line.unconfirmed} unconfirmed"
        yield Discrepancy("an answer that says it was free, and was charged", detail, (asked.id,))


def _is_line_cut_off(asked: Asked, processes: Sequence[Process]) -> bool:
    """Returns True for a line whose gateway may have died after it settled, before it recorded the line's end."""
    is_killed = any(process.was_killed(asked.sent_s, asked.ended_s) for process in processes)
    return bool(asked.batch) and asked.code == "upstream_timeout" and is_killed


def _is_settled_by_others(asked: Asked, line: Line | None, processes: Sequence[Process]) -> bool:
    """Returns True if its images are unconfirmed in the ledger, because its gateway died before it settled.

    Redis was unavailable when it responded, because responses do not wait for the record, and it was killed before
    Redis recovered. A gateway told to end waits for Redis.
    """
    if line is None or line.delivered or line.unconfirmed < asked.pictures:
        return False
    return any(process.was_killed(asked.sent_s, asked.ended_s + OWED_S) for process in processes)
