"""Limits the cost of refused requests of one API key or tenant.

A refused request costs its parsing, a call to Redis and a log line. A key may have `per_second` of them and its tenant
four times as many, with bursts of ten seconds' worth. Beyond that, this process refuses all its requests for 1 s:
before the body is read, without Redis and without a log line at `info`. Some of these responses are delayed to the end
of that second, which slows down clients that wait for them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal

_KEYS_A_TENANT: Final = 4
_DELAYED_MAX: Final = 256
"""Limit on delayed responses in this process: each holds a connection."""
_BURST_S: Final = 10.0
"""Seconds' worth of tokens in a full bucket, which allow a burst."""
_BLOCKED_S: Final = 1.0
"""Seconds for which an empty bucket refuses, so that `retry-after` is exact."""
_BUCKETS_MAX: Final = 4096
_LOG = structlog.get_logger("imagegate.refusals")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since_s: float
    """Monotonic time of the last refill."""
    blocked_until_s: float = 0.0


class Buckets:
    """Token buckets of this process. Each name may take `per_second` tokens a second, with bursts of 10 s."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}

    def blocked_s(self, name: str) -> float:
        """Returns the seconds until this name may take a token; 0 if it may now."""
        bucket = self._buckets.get(name)
        return max(0.0, bucket.blocked_until_s - self._monotonic()) if bucket else 0.0

    def take(self, name: str) -> bool:
        """Takes a token. Returns: whether it was the last one."""
        now_s, full = self._monotonic(), self._per_second * _BURST_S
        bucket = self._buckets.get(name)
        if bucket is None:
            self._drop_full(now_s)
            bucket = self._buckets[name] = _Bucket(full, now_s)
        grown = bucket.tokens + (now_s - bucket.since_s) * self._per_second
        bucket.tokens, bucket.since_s = max(min(grown, full) - 1, 0.0), now_s
        if bucket.tokens >= 1 or now_s < bucket.blocked_until_s:
            return False
        bucket.blocked_until_s = now_s + _BLOCKED_S
        return True

    def _drop_full(self, now_s: float) -> None:
        """Drops buckets that are full again, which equal new ones."""
        if len(self._buckets) >= _BUCKETS_MAX:
            recent = (item for item in self._buckets.items() if now_s - item[1].since_s < _BURST_S)
            self._buckets = dict(recent)


class RejectionLimits:
    """Counts the refused requests of each key and tenant. `per_second` 0 disables the limit."""

    def __init__(self, per_second: int, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._keys = Buckets(per_second, monotonic)
        self._tenants = Buckets(per_second * _KEYS_A_TENANT, monotonic)
        self._delayed = 0

    async def check(self, caller: Principal) -> None:
        """Raises: GatewayError REQUESTS_THROTTLED, often after a delay."""
        wait_s = max(self._keys.blocked_s(_key_of(caller)), self._tenants.blocked_s(caller.tenant.name))
        if not wait_s:
            return
        if self._delayed < _DELAYED_MAX:
            self._delayed += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._delayed -= 1
        raise GatewayError(
            ErrorCode.REQUESTS_THROTTLED,
            f"Too many requests of key '{caller.key.id}' or of its tenant were refused (limit {self._per_second} per "
            "second and key). Please try again in 1 s.",
            retry_after_s=wait_s,
        )

    def count(self, caller: Principal) -> None:
        """Counts a refused request."""
        if not self._per_second:
            return
        are_spent = self._keys.take(_key_of(caller)), self._tenants.take(caller.tenant.name)
        if any(are_spent):
            _LOG.warning("requests_throttled", tenant=caller.tenant.name, key_id=caller.key.id)


def _key_of(caller: Principal) -> str:
    return f"{caller.tenant.name} {caller.key.id}"
