"""Whether a process is to be sent requests, and why not."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.scheduler import Scheduler
from gateway.scheduler.status import AccountStatus, Health, PoolStatus

_GOOD_FOR_S: Final = 1.0
"""One answer serves every probe for this long: a look at the pool may cost as much as it has accounts."""
_BUSY: Final = frozenset(error_code.value for error_code in ErrorCode if ERROR_SPECS[error_code].status == 429)


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What can be asked about Redis."""

    write_refusal: Callable[[], Awaitable[str]]
    """Why it takes no writes; empty where it does. Raises: GatewayError where it does not answer."""
    problems: Callable[[], Sequence[str]]
    """Why the one that answers must not be used."""


class Readiness:
    """Ready is who takes requests and can serve one now or, where all is merely busy, when its turn comes."""

    def __init__(
        self, drain: ShutdownState, redis: RedisHealth, pool: Scheduler, monotonic: Callable[[], float]
    ) -> None:
        self._drain = drain
        self._redis = redis
        self._pool = pool
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._last: list[str] | None = None
        self._until_s = 0.0

    async def reasons(self) -> list[str]:
        """Why not; empty when ready. A probe that comes while another one asks Redis gets the last answer.

        Redis: once a second, one round trip, and one an upstream; none while draining.
        """
        if self._drain.is_on:
            return ["draining: the process is ending"]
        if self._last is not None and (self._lock.locked() or self._monotonic() < self._until_s):
            return self._last
        async with self._lock:
            if self._last is None or self._monotonic() >= self._until_s:
                self._last = await self._ask()
                self._until_s = self._monotonic() + _GOOD_FOR_S
            return self._last

    async def _ask(self) -> list[str]:
        try:
            if refusal := await self._redis.write_refusal():
                return [refusal]
            pool = [] if await self._pool.has_capacity() else unavailable_reasons(await self._pool.snapshot())
            return [*self._redis.problems(), *pool]
        except GatewayError:
            return ["redis does not answer"]


def unavailable_reasons(pools: Iterable[PoolStatus]) -> list[str]:
    """One reason an upstream; empty where one of them can serve some model."""
    reasons = []
    for pool in pools:
        if not _is_usable(pool):
            reasons.append(f"upstream {pool.upstream} is left alone after {pool.error_code}")
        elif any(_can_serve(account) for account in pool.accounts):
            return []
        else:
            reasons.append(f"upstream {pool.upstream} has no usable account{_faults_of(pool)}")
    return reasons or ["there is no upstream"]


def _can_serve(account: AccountStatus) -> bool:
    return _is_usable(account) and any(_is_usable(key) or key.model is not None for key in account.keys)


def _is_usable(one: Health) -> bool:
    """Also what is half open, which the next request tries, and what rests because it was asked too fast."""
    return one.state in {KeyState.READY, KeyState.HALF_OPEN} or (
        one.state is KeyState.COOLING and one.error_code in _BUSY
    )


def _faults_of(pool: PoolStatus) -> str:
    found = [one for account in pool.accounts for one in (account, *account.keys) if not _is_usable(one)]
    words = sorted({one.error_code or one.state.value for one in found})
    return f": {', '.join(words)}" if words else ""
