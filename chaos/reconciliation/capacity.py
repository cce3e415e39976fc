"""What the accounts may do, by the provider's journal: at once, and in a minute.

The provider itself refuses what exceeds its limits. The gateways' limits of the crowd's accounts are lower: these are
computed here. A minute is one of Redis's clock, so nothing is claimed of one in which that clock was stepped.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from chaos.configuration import CROWD, RATE_MARGIN_S
from chaos.observations import Call, Discrepancy, Evidence
from chaos.phases import Outage

_CONCURRENCY: Final = 1041
_RATES: Final = frozenset({1002, 1039})
_MINUTE_S: Final = 60.0
_JITTER_S: Final = 2.0
"""What a slow machine may add between a lease and its call's arrival, and not to the next one."""


def check_capacity(evidence: Evidence) -> list[Discrepancy]:
    found = list(_check_refusals(evidence))
    calls = defaultdict[str, list[Call]](list)
    for call in sorted(evidence.calls, key=lambda call: call.at):
        calls[call.account].append(call)
    for account in CROWD.accounts:
        found += _check_minutes(account, calls[account], evidence.clock_steps_s)
    return found


def is_in_minute_of_a_step(moment_s: float, steps_s: Sequence[float]) -> bool:
    """If the minute up to a moment has a step of the clock in it; `steps_s` are in order."""
    index = bisect_right(steps_s, moment_s)
    return index > 0 and moment_s - steps_s[index - 1] < _MINUTE_S + RATE_MARGIN_S


def end_of_window(since_s: float, seconds: float, steps_s: Sequence[float]) -> float:
    """The end of the window that begins at a moment: the clock's next step, if that is earlier."""
    index = bisect_left(steps_s, since_s)
    return min([since_s + seconds, *steps_s[index : index + 1]])


def calls_through(evidence: Evidence, outage: Outage) -> int:
    """How many calls were in flight from before an outage until after it."""
    return sum(call.at < outage.since_s and (call.ended or 0.0) > outage.until_s for call in evidence.calls)


def _check_refusals(evidence: Evidence) -> Iterator[Discrepancy]:
    """Refusals that a prompt ordered are not meant."""
    for call in evidence.calls:
        if call.rule != "limits":
            continue
        if call.code == _CONCURRENCY:
            detail = f"{call.account}: {call.code}"
            yield Discrepancy("an account over its concurrency", detail, (call.request_id,))
        elif call.code in _RATES and not is_in_minute_of_a_step(call.at, evidence.clock_steps_s):
            yield Discrepancy("an account over its rate", f"{call.account}: {call.code}", (call.request_id,))


def _check_minutes(account: str, calls: Sequence[Call], steps_s: Sequence[float]) -> Iterator[Discrepancy]:
    """The window that begins with each call; at most one discrepancy an account."""
    moments = [call.at for call in calls]
    for index, first in enumerate(calls):
        within = calls[index : bisect_left(moments, end_of_window(first.at, _MINUTE_S - _JITTER_S, steps_s))]
        images = sum(call.asked for call in within)
        if len(within) > CROWD.requests_per_minute or images > CROWD.images_per_minute:
            ids = tuple(call.request_id for call in within)
            yield Discrepancy("an account over its rate", f"{account}: {len(within)} calls, {images} images", ids)
            return
