"""Bounds what refused requests of one key or tenant cost the others.

A refused request costs its parsing, a call to Redis and a log line. A key may have `per_second` of them, its tenant
four times as many, and ten seconds' worth at once. Beyond, this process refuses every request of it for a second: from
memory, before the body is read, without Redis and without a line at `info`. Some of these answers are delayed to the
end of that second, so a client that waits for its answers slows down.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.tenants import Caller
from gateway.web.buckets import Buckets

_KEYS_A_TENANT: Final = 4
_DELAYED_MAX: Final = 256
"""Delayed answers in this process: each holds a connection."""
_LOG = structlog.get_logger("imagegate.refusals")


class Refusals:
    """Counts the refused requests of each key and tenant. `per_second` 0 counts nothing."""

    def __init__(self, per_second: int, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._keys = Buckets(per_second, monotonic)
        self._tenants = Buckets(per_second * _KEYS_A_TENANT, monotonic)
        self._delayed = 0

    async def check(self, caller: Caller) -> None:
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
            Fault.REQUESTS_THROTTLED,
            f"Too many requests of key '{caller.key.id}' or of its tenant were refused (limit {self._per_second} per "
            "second and key). Please try again in 1 s.",
            retry_after_s=wait_s,
        )

    def count(self, caller: Caller) -> None:
        """A request of this caller was refused."""
        if not self._per_second:
            return
        are_spent = self._keys.take(_key_of(caller)), self._tenants.take(caller.tenant.name)
        if any(are_spent):
            _LOG.warning("requests_throttled", tenant=caller.tenant.name, key_id=caller.key.id)


def _key_of(caller: Caller) -> str:
    return f"{caller.tenant.name} {caller.key.id}"
