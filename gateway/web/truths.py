"""What is read at the scrape, of which every process tells the same: nobody counts it, Redis says how it stands."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.domain.faults import State
from gateway.metrics import Truth, families
from gateway.stores.pool.status import AccountStatus, KeyStatus, PoolStatus, Standing

_MILDEST_FIRST: Final = (
    State.READY,
    State.HALF_OPEN,
    State.COOLING,
    State.QUARANTINED,
    State.DRAINING,
    State.DISABLED,
)


def pool_truths(statuses: Sequence[PoolStatus]) -> Iterator[Truth]:
    """A key that is gone has no state; every other the worst of its own, its account's and its upstream's."""
    for status in statuses:
        yield Truth(families.POOL_CAPACITY, (status.upstream,), status.free)
        yield Truth(families.QUEUE_DEPTH, (status.upstream,), status.waiting)
        for state in State:
            yield Truth(families.UPSTREAM_STATE, (status.upstream, state.value), state is status.state)
        for account in status.accounts:
            yield from _capacity(account)
            for key in account.keys:
                yield from _key_state(key, max((key, account, status), key=lambda one: _MILDEST_FIRST.index(one.state)))


def _capacity(account: AccountStatus) -> Iterator[Truth]:
    limits = account.limits
    told = {
        "requests": (limits.requests_per_minute, account.requests_per_minute_now, account.requests_used),
        "images": (limits.images_per_minute, limits.images_per_minute, account.images_used),
        "concurrency": (limits.max_concurrency, account.max_concurrency_now, account.in_flight),
    }
    for kind, values in told.items():
        for what, value in zip(("limit", "allowed", "used"), values, strict=True):
            yield Truth(families.ACCOUNT_CAPACITY, (account.upstream, account.name, kind, what), value)


def _key_state(key: KeyStatus, ruling: Standing) -> Iterator[Truth]:
    labels = (key.upstream, key.account, key.name)
    for state in State:
        yield Truth(families.KEY_STATE, (*labels, state.value), state is ruling.state)
    if ruling.fault and ruling.until_s:
        yield Truth(families.KEY_BACK, (*labels, ruling.fault), ruling.until_s)
