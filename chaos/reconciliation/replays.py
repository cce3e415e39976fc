"""Repeated requests: one key buys once, and every replay is equal to its first response."""

from collections.abc import Iterator, Mapping
from typing import Final

from chaos.clients import NOT_KEPT
from chaos.observations import OWED_S, Asked, Discrepancy, Ending, Observations, Process

_NOTICED_S: Final = 2.0
"""Time from a kill to the end of the client's connection."""


def check_replays(observed: Observations) -> list[Discrepancy]:
    """Purchases are counted by `check_purchases`, and charges by `compare_books`: all attempts have one request ID."""
    processes = {one.number: one for one in observed.processes if one.number is not None}
    return [one for asked in observed.asked if asked.attempts for one in _check(asked, processes)]


def _check(asked: Asked, processes: Mapping[int, Process]) -> Iterator[Discrepancy]:
    own = [processes[number] for number in asked.gateways if number in processes]
    if not any(one.was_killed(asked.sent_s, asked.ended_s + _NOTICED_S) for one in own):
        for attempt in asked.attempts:
            if attempt.ending is Ending.BROKEN:
                detail = f"gateways {sorted(asked.gateways)}: {attempt.detail}"
                yield Discrepancy("a connection broke, and nobody was killed", detail, (asked.id,))
    if not asked.is_keyed:
        return
    served = [one for one in asked.attempts if one.is_success]
    if len({one.digest for one in served}) > 1:
        yield Discrepancy("one key, and different images", f"{len(served)} responses with images", (asked.id,))
    if any(one.was_killed(asked.sent_s, asked.ended_s + OWED_S) for one in own):
        return  # it may have died before it settled, or before it stored the result
    since_s = min((one.ended_s for one in served), default=float("inf"))
    for attempt in asked.attempts:
        is_error = attempt.ending is Ending.ANSWERED and not attempt.is_success and attempt.may_have_cost
        if is_error and (attempt.sent_s > since_s or attempt.code == NOT_KEPT):
            detail = f"{attempt.status} {attempt.code} {attempt.detail}"
            yield Discrepancy("a replay that is not its first response", detail, (asked.id,))
