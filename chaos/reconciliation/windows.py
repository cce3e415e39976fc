"""Limits and quotas, from the provider's call log and the clients' clocks.

A limit counts by the time of admission, which is not observable. It lies between the client's send and the arrival
of the first call at the provider. Only requests with both ends in a window count, so every reported violation is
certain.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.configuration import PRICES
from chaos.observations import Asked, Call, Caps, Discrepancy, LimitPeriod, Observations
from chaos.reconciliation.capacity import end_of_window

_MINUTE_S: Final = 60.0
_EFFECT_S: Final = 1.5
"""A change takes effect within a second."""


@dataclass(frozen=True, slots=True)
class Use:
    """Usage of one request, and the bounds of its admission time."""

    id: str
    sent_s: float
    reached_s: float
    over_s: float
    """Until then it was certainly in progress."""
    images: int
    usd_micros: int


def check_windows(observed: Observations) -> list[Discrepancy]:
    asked = {one.id: one for one in observed.asked}
    calls = defaultdict[str, list[Call]](list)
    for call in observed.calls:
        if call.request_id in asked:
            calls[call.request_id].append(call)
    uses = defaultdict[str, list[Use]](list)
    for request_id, own in calls.items():
        uses[asked[request_id].tenant].append(_use(asked[request_id], own))
    found = list[Discrepancy]()
    for tenant, used in uses.items():
        theirs, limit_periods = sorted(used, key=lambda use: use.sent_s), observed.limit_periods[tenant]
        for name, amount in (("requests_per_minute", None), ("images_per_minute", "images")):
            found += _check_minutes(tenant, theirs, limit_periods, (name, amount), observed.clock_steps_s)
        found += _check_concurrency(tenant, theirs, limit_periods, observed.clock_steps_s)
        found += _check_quota(tenant, theirs, limit_periods, ("images_per_day", "images", observed.new_day_s))
        found += _check_quota(tenant, theirs, limit_periods, ("images_per_month", "images", observed.new_month_s))
        found += _check_quota(
            tenant, theirs, limit_periods, ("usd_micros_per_month", "usd_micros", observed.new_month_s)
        )
    return found


def _use(asked: Asked, calls: list[Call]) -> Use:
    ended = [call.ended for call in calls if call.ended is not None]
    return Use(
        asked.id,
        asked.sent_s,
        min(call.at for call in calls),
        min(asked.ended_s, max(ended, default=asked.ended_s)),
        sum(call.billed for call in calls),
        sum(call.billed * PRICES[call.model] for call in calls if call.billed),
    )


def _check_quota(
    tenant: str, uses: Sequence[Use], limit_periods: Sequence[LimitPeriod], quota: tuple[str, str, float | None]
) -> Iterator[Discrepancy]:
    """Checks a quota of a calendar window, as (limit, amount, start of a new window). A run has at most two windows.

    A quota lowered below its usage admits nothing more, so the maximum over time counts.
    """
    name, amount, turn_s = quota
    allowed = most_allowed(limit_periods, name, 0.0, float("inf"))
    before = [use for use in uses if turn_s is None or use.reached_s < turn_s]
    after = [use for use in uses if turn_s is not None and use.sent_s >= turn_s]
    for window in (before, after):
        used = sum(getattr(use, amount) for use in window)
        if allowed is not None and used > allowed:
            yield Discrepancy("a tenant over its quota", f"{tenant}: {name} {allowed}, used {used}")


def _check_minutes(
    tenant: str,
    uses: Sequence[Use],
    limit_periods: Sequence[LimitPeriod],
    limit: tuple[str, str | None],
    steps_s: Sequence[float],
) -> Iterator[Discrepancy]:
    """Checks the window that begins with each request, counting requests fully inside it.

    Minutes are of Redis's clock: a window ends if that is stepped.
    """
    name, amount = limit
    starts = [use.sent_s for use in uses]
    for index, first in enumerate(uses):
        end_s = end_of_window(first.sent_s, _MINUTE_S, steps_s)
        within = uses[index : bisect.bisect_left(starts, end_s)]
        inside = [use for use in within if use.reached_s < end_s]
        used = len(inside) if amount is None else sum(getattr(use, amount) for use in inside)
        allowed = most_allowed(limit_periods, name, first.sent_s, end_s)
        if allowed is not None and used > allowed:
            ids = tuple(use.id for use in inside[-5:])
            yield Discrepancy("a tenant over its rate", f"{tenant}: {name} {allowed}, used {used}", ids)
            return


def _check_concurrency(
    tenant: str, uses: Sequence[Use], limit_periods: Sequence[LimitPeriod], steps_s: Sequence[float]
) -> Iterator[Discrepancy]:
    """Checks concurrency.

    A reservation may expire when Redis's clock is stepped, so requests count until the next step.
    """
    moments = list[tuple[float, int, str]]()
    for use in uses:
        step_s = end_of_window(use.sent_s, use.over_s - use.sent_s, steps_s)
        if step_s > use.reached_s:
            moments += [(use.reached_s, 1, use.id), (step_s, -1, use.id)]
    running = set[str]()
    longest = max((use.over_s - use.sent_s for use in uses), default=0.0)
    for moment_s, step, request_id in sorted(moments):
        if step < 0:
            running.discard(request_id)
            continue
        running.add(request_id)
        allowed = most_allowed(limit_periods, "concurrency", moment_s - longest, moment_s)
        if allowed is not None and len(running) > allowed:
            detail = f"{tenant}: concurrency {allowed}, {len(running)} at once"
            yield Discrepancy("a tenant over its limit", detail, tuple(sorted(running)))
            return


def most_allowed(limit_periods: Sequence[LimitPeriod], name: str, since_s: float, until_s: float) -> int | None:
    """Returns the maximum that a limit may have allowed in a span; None if it was unlimited at any time."""
    held = [
        limit_period.caps
        for limit_period in limit_periods
        if limit_period.since_s <= until_s and limit_period.until_s + _EFFECT_S >= since_s
    ]
    limits = [getattr(caps, name) for caps in held or [Caps()]]
    return None if None in limits else max(limits)
