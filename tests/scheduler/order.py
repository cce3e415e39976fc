"""Whether what is given out goes to the request whose turn it is.

A request goes before those of tenants with a higher pass that need as much or more. With a single account, a smaller
one of a higher pass may go before the first that waits for room, if it does not put off the moment at which that fits.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from gateway.domain.accounts import AccountLimits
from tests.scheduler.lanes import may_be_kept
from tests.scheduler.liveness import grown
from tests.scheduler.needs import Need
from tests.scheduler.provider import MINUTE_S, WrongError

if TYPE_CHECKING:
    from tests.scheduler.histories import History

BATCH_AFTER: Final = 1e12
"""Every interactive request goes before every batch request."""
KEPT_S: Final = 299.0
"""For which interactive requests are remembered, at least."""
LEAST: Final = 1e-6
_Entry = tuple[float, int, int]
"""Of a log: when requests were sent, how many, and their images."""


def check_order(history: "History", granted: list[Need], before: dict[str, float]) -> None:
    """Raises: WrongError. `before`: the passes of the flows before these were granted, at a pool that is not paced."""
    served = {need: _pass_of(need, before) for need in granted if need.flow in before}
    waiting = {need: _pass_of(need, history.passes) for need in _waiting(history) if need.flow in history.passes}
    for one, own in served.items():
        for need, first in waiting.items():
            is_like = need.model == one.model and not need.avoided and need.images <= one.images
            if is_like and first < own - LEAST and _is_due(history, need, history.calls[one.id].account):
                raise WrongError(f"{one} with pass {own} overtakes {need} with {first}")
    if waiting and len(history.provider.accounts) == 1 and not history.plan.is_dense:
        lowest = min(waiting.values())
        overtaking = [one for one, own in served.items() if own > lowest + LEAST]
        _check_first(history, [need for need, first in waiting.items() if first < lowest + LEAST], overtaking)


def _is_due(history: "History", need: Need, account: str) -> bool:
    """Whether it still waits, and not as its tenant holds its share of the lanes."""
    if not history.pool.is_waiting(need.id):
        return False
    state, limits = history.pool.state(), history.provider.accounts[account]
    lanes = grown(limits.max_concurrency, state.loads[account], "concurrency", history.server_s)
    return not may_be_kept(need, lanes, state, history.plan.paced)


def _pass_of(need: Need, passes: dict[str, float]) -> float:
    return passes[need.flow] + BATCH_AFTER * (need.priority == "b")


def _waiting(history: "History") -> Iterable[Need]:
    for process in history.living:
        yield from (request.need for request in process.places.values() if request.need.id not in history.calls)
    yield from history.ghosts.values()


def _check_first(history: "History", first: list[Need], overtaking: list[Need]) -> None:
    """Raises: WrongError, if the first that wait, all for the same images, fit later for what went before them."""
    (account, limits), images = next(iter(history.provider.accounts.items())), {need.images for need in first}
    like = [
        need
        for need in first
        if need.images <= limits.images_per_minute
        and not need.avoided
        and overtaking
        and need.model == overtaking[0].model
        and _is_due(history, need, account)
    ]
    if len(images) > 1 or not like:
        return
    state = history.pool.state()
    load, now_us = state.loads[account], round(history.server_s * 1e6)
    window_us = round((MINUTE_S + history.plan.margin_s) * 1e6)
    log: list[_Entry] = [(at, count, size) for at, count, size, _ in zip(*[iter(load["log"])] * 4, strict=True)]
    without = list(log)
    for one in overtaking:
        without.remove(next(entry for entry in log if entry[1:] == (1, one.images) and abs(entry[0] - now_us) < 1000))
    limits = AccountLimits(grown(limits.requests_per_minute, load, "rate", history.server_s), limits.images_per_minute)
    moments = [_room_at(entries, like[0].images, limits, now_us, window_us) for entries in (without, log)]
    if moments[1] > moments[0] or history.watch.lanes(account, state, history.server_s) < 1:
        raise WrongError(f"{like[0]} is put off from {moments[0]} to {moments[1]} by {overtaking}")


def _room_at(log: list[_Entry], images: int, limits: AccountLimits, now_us: float, window_us: float) -> float:
    """When there is room for a call of so many images."""
    for at_us in (now_us, *(at + window_us for at, _, _ in log)):
        left = [entry for entry in log if entry[0] + window_us > at_us]
        requests, taken = sum(entry[1] for entry in left), sum(entry[2] for entry in left)
        if requests < limits.requests_per_minute and taken + images <= limits.images_per_minute:
            return at_us
    raise WrongError(f"{images} images never fit: {log}")


def check_kept(need: Need, account: str, history: "History") -> None:
    """Raises: WrongError, if a batch was just given what is kept of an account's minute for interactive requests.

    Stated soundly, not tightly: two requests are kept at least, of a pool whose accounts are all usable.
    """
    age_s = history.server_s - history.interactive_s
    if need.priority != "b" or not 0 <= age_s < KEPT_S or account not in history.provider.accounts:
        return
    load, limit = history.pool.state().loads[account], history.provider.accounts[account].requests_per_minute
    capacity = sum(limits.requests_per_minute for limits in history.provider.accounts.values())
    rate = grown(limit, load, "rate", history.server_s)
    kept = min(math.ceil(2 * rate / max(rate, capacity)), rate // 2)
    if rate - sum(load["log"][1::4]) < kept:
        raise WrongError(f"{need} leaves less than {kept} of {rate} requests of {account}: {load}")
