"""Readiness of a process, with the reasons if it is not ready."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.scheduler import Scheduler
from gateway.scheduler.status import AccountStatus, Health, PoolStatus

_CACHE_S: Final = 1.0
"""Lifetime of a cached result: reading the pool costs more with each account."""
_BUSY: Final = frozenset(error_code.value for error_code in ErrorCode if ERROR_SPECS[error_code].status == 429)


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """Checks of Redis."""

    write_refusal: Callable[[], Awaitable[str]]
    """Returns the reason why Redis refuses writes, or empty. Raises: GatewayError if Redis does not respond."""
    problems: Callable[[], Sequence[str]]
    """Returns the reasons why a Redis that responds must not be used."""


class Readiness:
    """Checks that the process accepts requests and can serve one now, or after a wait if all accounts are busy."""

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
        """Returns the reasons; empty if ready. A probe during another one's check gets the previous result.

        Redis: at most once a second, one round trip, and one per upstream; none while draining.
        """
        if self._drain.is_on:
            return ["draining: the process is shutting down"]
        if self._last is not None and (self._lock.locked() or self._monotonic() < self._until_s):
            return self._last
        async with self._lock:
            if self._last is None or self._monotonic() >= self._until_s:
                self._last = await self._ask()
                self._until_s = self._monotonic() + _CACHE_S
            return self._last

    async def _ask(self) -> list[str]:
        try:
            if problem := await self._redis.write_refusal():
                return [problem]
            pool = [] if await self._pool.has_capacity() else unavailable_reasons(await self._pool.snapshot())
            return [*self._redis.problems(), *pool]
        except GatewayError:
            return ["redis does not respond"]


def unavailable_reasons(pools: Iterable[PoolStatus]) -> list[str]:
    """Returns one reason per upstream; empty if one of them can serve any model."""
    reasons = []
    for pool in pools:
        if not _is_usable(pool):
            reasons.append(f"upstream '{pool.upstream}': circuit breaker open ({pool.error_code})")
        elif any(_can_serve(account) for account in pool.accounts):
            return []
        else:
            reasons.append(f"upstream '{pool.upstream}': no usable account{_errors_of(pool)}")
    return reasons or ["no upstream is configured"]


def _can_serve(account: AccountStatus) -> bool:
    return _is_usable(account) and any(_is_usable(key) or key.model is not None for key in account.keys)


def _is_usable(health: Health) -> bool:
    """Includes half-open ones, those on cooldown after a rate limit, and those that other tenants' requests may try.

    A tenant must not make a balancer remove the gateway for all.
    """
    if health.others_may_try:
        return True
    return health.state in {KeyState.READY, KeyState.HALF_OPEN} or (
        health.state is KeyState.COOLING and health.error_code in _BUSY
    )


def _errors_of(pool: PoolStatus) -> str:
    unusable = [part for account in pool.accounts for part in (account, *account.keys) if not _is_usable(part)]
    reasons = sorted({part.error_code or part.state.value for part in unusable})
    return f": {', '.join(reasons)}" if reasons else ""
