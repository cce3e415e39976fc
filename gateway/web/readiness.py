"""Whether a process is to be sent requests, and why not."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.faults import TABLE, Fault, GatewayError, State
from gateway.stores.pool import KeyPool
from gateway.stores.pool.status import AccountStatus, PoolStatus, Standing
from gateway.web.draining import Drain

_POOL_LOOK_S: Final = 1.0
"""So long one look at the pool, which may cost as much as it has accounts, is good for every probe."""
_BUSY: Final = frozenset(fault.value for fault in Fault if TABLE[fault].status == 429)


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What can be asked about Redis."""

    write_refusal: Callable[[], Awaitable[str]]
    """Why it takes no writes; empty where it does. Raises: GatewayError where it does not answer."""
    problems: Callable[[], Sequence[str]]
    """Why the one that answers must not be used."""


class Readiness:
    """Ready is who takes requests and can serve one now or, where all is merely busy, when its turn comes."""

    def __init__(self, drain: Drain, redis: RedisHealth, pool: KeyPool, monotonic: Callable[[], float]) -> None:
        self._drain = drain
        self._redis = redis
        self._pool = pool
        self._monotonic = monotonic
        self._pool_reasons: list[str] = []
        self._pool_until_s = 0.0

    async def reasons(self) -> list[str]:
        """Why not; empty when ready.

        Redis: one round trip, and one an upstream once a second; none while draining.
        """
        if self._drain.is_on:
            return ["draining: the process is ending"]
        try:
            if refusal := await self._redis.write_refusal():
                return [refusal]
            return [*self._redis.problems(), *await self._of_the_pool()]
        except GatewayError:
            return ["redis does not answer"]

    async def _of_the_pool(self) -> list[str]:
        now_s = self._monotonic()
        if now_s >= self._pool_until_s:
            self._pool_reasons = [] if await self._pool.has_room() else why_nobody_can_serve(await self._pool.look())
            self._pool_until_s = now_s + _POOL_LOOK_S
        return self._pool_reasons


def why_nobody_can_serve(pools: Iterable[PoolStatus]) -> list[str]:
    """One reason an upstream; empty where one of them can serve some model."""
    reasons = []
    for pool in pools:
        if not _is_usable(pool):
            reasons.append(f"upstream {pool.upstream} is left alone after {pool.fault}")
        elif any(_can_serve(account) for account in pool.accounts):
            return []
        else:
            reasons.append(f"upstream {pool.upstream} has no usable account{_faults_of(pool)}")
    return reasons or ["there is no upstream"]


def _can_serve(account: AccountStatus) -> bool:
    return _is_usable(account) and any(_is_usable(key) or key.model is not None for key in account.keys)


def _is_usable(one: Standing) -> bool:
    """Also what is half open, which the next request tries, and what rests because it was asked too fast."""
    return one.state in {State.READY, State.HALF_OPEN} or (one.state is State.COOLING and one.fault in _BUSY)


def _faults_of(pool: PoolStatus) -> str:
    found = [one for account in pool.accounts for one in (account, *account.keys) if not _is_usable(one)]
    words = sorted({one.fault or one.state.value for one in found})
    return f": {', '.join(words)}" if words else ""
