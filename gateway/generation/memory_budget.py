"""One budget of bytes for a process: request bodies, references of jobs, replies, and responses that are not read yet.

A tenant may take more while it then holds no more than is left free. Invariant: N tenants that take all they can, in
any order, leave at least 1/2^N of the budget free (1/(N+1) once each has given back and taken again), and a tenant
that holds nothing may take half of that: no number of tenants fills the budget.

A request is refused beyond that. A reply to a call that was sent is paid for and never refused: while there is no room
it is left with the provider's connection. One request of each tenant goes on while an eighth is left, so that each
tenant's get done; and one of the process whatever is left, which the others' room is counted without.

What is held is at most the budget and that one request. Invariant: whatever ends a request, its account is closed, and
everything on it is given back.
"""

import asyncio
import ctypes
import sys
from collections import Counter
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_RESERVED_PART: Final = 8
"""What is left to tenants that hold little by those that have one request beyond their share."""
_PROCESS: Final = None
"""The scope that everything counts for, beside that of a tenant."""


_TRIM_PAUSE_S: Final = 5.0
_TRIM_AFTER_BYTES: Final = 16 * 1024 * 1024
"""Less is not worth the milliseconds: what is returned has to be mapped again for the next body."""


class ByteBudget:
    """What may be held at one time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.freed_bytes = 0
        """Given back since the start."""
        self._held: Counter[str | None] = Counter()
        self._first: dict[str | None, ByteAccount] = {}
        """The request that goes on beyond a tenant's share, and beyond all, so that always one gets done."""
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        return self._held[_PROCESS]

    def check(self, account: "ByteAccount", count: int) -> None:
        """Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        if self._has_share(account, count):
            return
        tenant_bytes = self._held[account.tenant]
        if tenant_bytes + count > self._max_bytes // 2:  # not even with all the rest free
            raise GatewayError(ErrorCode.TENANT_MEMORY_FULL, f"{tenant_bytes} bytes are held")
        raise GatewayError(
            ErrorCode.MEMORY_FULL, f"{self.held_bytes} bytes are held, {tenant_bytes} of them by the tenant"
        )

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

    @property
    def _free_bytes(self) -> int:
        beyond = self._first.get(_PROCESS)
        return self._max_bytes - self.held_bytes + (beyond.held_bytes if beyond else 0)

    def _has_share(self, account: "ByteAccount", count: int) -> bool:
        return self._held[account.tenant] + count <= self._free_bytes - count

    def _may_go_on(self, account: "ByteAccount", count: int) -> bool:
        """The process's exception is given to a tenant's one request alone: it must not wait for anything else."""
        if self._first.get(_PROCESS) is account or self._has_share(account, count):
            return True
        if self._first.setdefault(account.tenant, account) is not account:
            return False
        if self._free_bytes - count >= self._max_bytes // _RESERVED_PART:
            return True
        if self._first.setdefault(_PROCESS, account) is not account:
            return False
        self._freed.set()  # the others' room is counted without it from now on
        return True


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
