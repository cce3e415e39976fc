"""Account limits, by the provider's call log: concurrency and rate.

The provider refuses calls beyond its limits. The gateways' limits of the overload accounts are lower and checked
here. Minutes are of Redis's clock, so a minute in which that clock was stepped is not checked.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from chaos.configuration import CROWD, RATE_MARGIN_S
from chaos.observations import Call, Discrepancy, Observations
from chaos.phases import Outage

_CONCURRENCY: Final = 1041
_RATES: Final = frozenset({1002, 1039})
_MINUTE_S: Final = 60.0
_JITTER_S: Final = 2.0
"""Possible delay between a lease and its call on a slow machine, without delaying the next one."""


def check_capacity(observed: Observations) -> list[Discrepancy]:
    found = list(_check_refusals(observed))
    calls = defaultdict[str, list[Call]](list)
    for call in sorted(observed.calls, key=lambda call: call.at):
        calls[call.account].append(call)
    for account in CROWD.accounts:
        found += _check_minutes(account, calls[account], observed.clock_steps_s)
    return found


def is_in_minute_of_a_step(moment_s: float, steps_s: Sequence[float]) -> bool:
    """Returns True if the clock was stepped in the minute before a time; `steps_s` are in order."""
    index = bisect_right(steps_s, moment_s)
    return index > 0 and moment_s - steps_s[index - 1] < _MINUTE_S + RATE_MARGIN_S


def end_of_window(since_s: float, seconds: float, steps_s: Sequence[float]) -> float:
    """Returns the end of the window that begins at a time: the clock's next step, if earlier."""
    index = bisect_left(steps_s, since_s)
    return min([since_s + seconds, *steps_s[index : index + 1]])


def calls_through(observed: Observations, outage: Outage) -> int:
    """Returns the number of calls in flight from before an outage until after it."""
    return sum(call.at < outage.since_s and (call.ended or 0.0) > outage.until_s for call in observed.calls)


def _check_refusals(observed: Observations) -> Iterator[Discrepancy]:
    """Checks refusals, except those requested by a prompt."""
    for call in observed.calls:
        if call.rule != "limits":
            continue
        if call.code == _CONCURRENCY:
            beside = ", ".join(_in_flight(call, observed.calls))
            detail = f"{call.account}: {call.code}" + (f" beside {beside}" if beside else "")
            yield Discrepancy("an account over its concurrency", detail, (call.request_id,))
        elif call.code in _RATES and not is_in_minute_of_a_step(call.at, observed.clock_steps_s):
            yield Discrepancy("an account over its rate", f"{call.account}: {call.code}", (call.request_id,))


def _in_flight(refused: Call, calls: Sequence[Call]) -> Iterator[str]:
    """Describes the account's other calls at the moment of a refused one; times are seconds from that moment."""
    for call in calls:
        until_s = math.inf if call.ended is None else call.ended - refused.at
        since_s = call.at - refused.at
        if call is not refused and call.account == refused.account and since_s <= 0 <= until_s:
            yield " ".join((call.request_id, f"{since_s:+.2f}", f"{until_s:+.2f}", *call.faults))


def _check_minutes(account: str, calls: Sequence[Call], steps_s: Sequence[float]) -> Iterator[Discrepancy]:
    """Checks the window that begins with each call; at most one discrepancy per account."""
    moments = [call.at for call in calls]
    for index, first in enumerate(calls):
        within = calls[index : bisect_left(moments, end_of_window(first.at, _MINUTE_S - _JITTER_S, steps_s))]
        images = sum(call.asked for call in within)
        if len(within) > CROWD.requests_per_minute or images > CROWD.images_per_minute:
            ids = tuple(call.request_id for call in within)
            yield Discrepancy("an account over its rate", f"{account}: {len(within)} calls, {images} images", ids)
            return
