"""Purchases, by the provider's call log: none twice for one request, and no invalid fields."""

from collections import defaultdict
from collections.abc import Iterator

from chaos.observations import Asked, Call, Discrepancy, Observations


def check_purchases(observed: Observations) -> list[Discrepancy]:
    asked = {one.id: one for one in observed.asked}
    calls = defaultdict[str, list[Call]](list)
    for call in observed.calls:
        calls[call.request_id].append(call)
    found = list(_check_fields(observed))
    for request_id, own in calls.items():
        found += _check_request(asked.get(request_id), request_id, own, observed)
    return found


def _check_fields(observed: Observations) -> Iterator[Discrepancy]:
    for call in observed.calls:
        if call.rule == "fields":
            yield Discrepancy("the provider did not understand a call", f"{call.code}: {call}", (call.request_id,))


def _check_request(
    asked: Asked | None, request_id: str, calls: list[Call], observed: Observations
) -> Iterator[Discrepancy]:
    if asked is None:
        yield Discrepancy("bought without a request", f"{len(calls)} calls", (request_id,))
        return
    billed, allowed = sum(call.billed for call in calls), asked.asked * asked.purchases_max
    if billed > allowed:
        yield Discrepancy("bought twice", f"{billed} images billed, {allowed} asked for", (request_id,))
    elif (most := most_at_stake(calls)) > allowed:
        detail = f"{most} images at stake at once, {allowed} asked for"
        yield Discrepancy("sent again though it may have been bought", detail, (request_id,))
    revoked_s = observed.revoked.get(asked.key_id)
    if revoked_s is not None and asked.sent_s > revoked_s and billed:
        yield Discrepancy("bought with a revoked key", f"{asked.sent_s - revoked_s:.2f} s after", (request_id,))


def most_at_stake(calls: list[Call]) -> int:
    """Returns the maximum number of images ordered and not known to be free, at any time.

    A call that is clearly free no longer counts when it ends; every other one counts forever. So a part of a request
    may be retried after a refusal, and never after a timeout.
    """
    moments = list[tuple[float, int, int]]()
    for call in calls:
        moments.append((call.at, 1, call.asked))
        is_free = not call.billed and not call.is_unclear
        if is_free and call.ended is not None:
            moments.append((call.ended, 0, -call.asked))
    most = at_stake = 0
    for _, _, images in sorted(moments):
        at_stake += images
        most = max(most, at_stake)
    return most
