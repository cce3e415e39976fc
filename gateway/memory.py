"""One budget of bytes for a process: request bodies, calls, replies, and responses that are not read yet.

Work is refused before it begins if the budget is nearly full. A reply to a call that was sent is paid for and never
refused: while there is no room it is left with the provider's connection. Invariant: whatever ends a request, its
account is closed, and everything on it is given back.
"""

import asyncio
import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.domain.faults import Fault, GatewayError

_FOR_REQUESTS: Final = 0.75
"""The part that requests may fill: the rest is for replies to calls that were sent before."""
_TENANTS: Final = 2
"""That can fill it together: none can alone."""
_PROCESS: Final = None
"""The scope that everything counts for, beside that of a tenant."""


_TRIM_PAUSE_S: Final = 5.0
_TRIM_AFTER_BYTES: Final = 16 * 1024 * 1024
"""Less is not worth the milliseconds: what is returned has to be mapped again for the next body."""


class ByteBudget:
    """What may be held at one time."""

    def __init__(self, max_bytes: int) -> None:
        self.tenant_max_bytes = max_bytes // _TENANTS
        self._max_bytes = max_bytes
        self.freed_bytes = 0
        """Given back since the start."""
        self._held: Counter[str | None] = Counter()
        self._first: dict[str | None, ByteAccount] = {}
        """The request that goes on although a scope is full, so that always one gets done."""
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        return self._held[_PROCESS]

    def check(self, account: "ByteAccount", count: int) -> None:
        """Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        if self._held[account.tenant] + count > self.tenant_max_bytes:
            raise GatewayError(Fault.TENANT_MEMORY_FULL, f"{self._held[account.tenant]} bytes are held")
        if self.held_bytes + count > self._max_bytes * _FOR_REQUESTS:
            raise GatewayError(Fault.MEMORY_FULL, f"{self.held_bytes} bytes are held")

    async def wait(self, account: "ByteAccount", count: int) -> None:
        """Waits until there is room, or this is the request that goes on without."""
        while not self._may_go_on(account, count):
            self._freed.clear()
            await self._freed.wait()

    def note(self, account: "ByteAccount", count: int) -> None:
        for scope in (_PROCESS, account.tenant):
            self._held[scope] += count
            if not self._held[scope]:
                del self._held[scope]
        if count < 0:
            self.freed_bytes -= count
            self._freed.set()

    def close(self, account: "ByteAccount") -> None:
        for scope in (_PROCESS, account.tenant):
            if self._first.get(scope) is account:
                del self._first[scope]
        self.note(account, -account.held_bytes)
        self._freed.set()

    def _may_go_on(self, account: "ByteAccount", count: int) -> bool:
        """The tenant's share is asked first: who holds the process's exception must not wait for anything."""
        if self._first.get(_PROCESS) is account:
            return True
        limits = ((account.tenant, self.tenant_max_bytes), (_PROCESS, self._max_bytes))
        return all(
            self._held[scope] + count <= most or self._first.setdefault(scope, account) is account
            for scope, most in limits
        )


class ByteAccount:
    """What one request holds."""

    __slots__ = ("_budget", "held_bytes", "tenant")

    def __init__(self, budget: ByteBudget | None = None, tenant: str = "") -> None:
        """Of a budget, or without bounds."""
        self._budget = budget or ByteBudget(sys.maxsize)
        self.tenant = tenant
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Counts bytes that are about to be taken in. Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        self._budget.check(self, count)
        self.note(count)

    async def wait_for(self, count: int) -> None:
        """Counts bytes of a reply as soon as there is room."""
        await self._budget.wait(self, count)
        self.note(count)

    def note(self, count: int) -> None:
        """Counts bytes that are there; below zero: gives them back."""
        self.held_bytes += count
        self._budget.note(self, count)

    @contextmanager
    def briefly(self, count: int) -> Iterator[None]:
        """Counts bytes for the time of the block."""
        self.note(count)
        try:
            yield
        finally:
            self.note(-count)

    def close(self) -> None:
        """Gives everything back. To be called once, when nothing of the request is left."""
        self._budget.close(self)
        self.held_bytes = 0


async def return_freed_memory(budget: ByteBudget) -> None:
    """Has glibc return freed memory to the system, soon after much was freed. Other allocators have no such function.

    By itself, glibc keeps up to twice the largest block that it ever freed, and all that lies below a small object at
    the end of its heap. Bounds for single blocks (mallopt) would do too, but cost page faults in every large response.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    trimmed_bytes = 0
    while trim:
        await asyncio.sleep(_TRIM_PAUSE_S)
        if budget.freed_bytes - trimmed_bytes >= _TRIM_AFTER_BYTES:
            trimmed_bytes = budget.freed_bytes
            trim(0)
