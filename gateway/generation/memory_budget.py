"""The byte budget of a process: request bodies, job inputs, replies, and responses not yet read by clients.

A tenant may take more while it then holds no more than remains free. Invariant: N tenants that take all they can,
in any order, leave at least 1/2^N of the budget free (1/(N+1) after each has released and taken again). A tenant
that holds nothing may take half of that, so no number of tenants fills the budget.

Requests beyond that are refused. Replies are paid for and never refused: without room they wait in the provider's
connection. One request per tenant proceeds while an eighth is free, so that each tenant makes progress. One
request of the process always proceeds, and the others' room is counted without it.

At most the budget and that one request are held. Invariant: however a request ends, its account is closed and its
bytes are released.
"""

import asyncio
import ctypes
import sys
from collections import Counter
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_RESERVED_PART: Final = 8
"""Reserved for tenants that hold little, against requests that exceed their tenant's share."""
_PROCESS: Final = None
"""Scope of the whole process."""


_TRIM_PAUSE_S: Final = 5.0
_TRIM_AFTER_BYTES: Final = 16 * 1024 * 1024
"""Trimming less is not worth the milliseconds: the memory has to be mapped again for the next body."""


class ByteBudget:
    """Limits the bytes held at one time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.freed_bytes = 0
        """Released since the start."""
        self._held: Counter[str | None] = Counter()
        self._first: dict[str | None, ByteAccount] = {}
        """The request that may exceed a tenant's share, and the one that may exceed the budget, so that one always
        proceeds."""
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        return self._held[_PROCESS]

    def check(self, account: "ByteAccount", count: int) -> None:
        """Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        if self._has_share(account, count):
            return
        tenant_bytes = self._held[account.tenant]
        if tenant_bytes + count > self._max_bytes // 2:  # not even with everything else free
            raise GatewayError(ErrorCode.TENANT_MEMORY_FULL, f"{tenant_bytes} bytes are held")
        raise GatewayError(
            ErrorCode.MEMORY_FULL, f"{self.held_bytes} bytes are held, {tenant_bytes} of them by the tenant"
        )

    async def wait(self, account: "ByteAccount", count: int) -> None:
        """Waits until there is room, or this request may exceed the budget."""
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
        """Returns True if the request may exceed the budget; only a tenant's exceptional request may.

        It must not wait for anything else.
        """
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
    """Bytes held by one request."""

    __slots__ = ("_budget", "held_bytes", "tenant")

    def __init__(self, budget: ByteBudget | None = None, tenant: str = "") -> None:
        """Without a budget there is no limit."""
        self._budget = budget or ByteBudget(sys.maxsize)
        self.tenant = tenant
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Counts bytes before they are received. Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        self._budget.check(self, count)
        self.note(count)

    async def wait_for(self, count: int) -> None:
        """Counts bytes of a reply as soon as there is room."""
        await self._budget.wait(self, count)
        self.note(count)

    def note(self, count: int) -> None:
        """Counts held bytes; a negative count releases them."""
        self.held_bytes += count
        self._budget.note(self, count)

    def close(self) -> None:
        """Releases everything. Call once, when nothing of the request remains."""
        self._budget.close(self)
        self.held_bytes = 0


async def return_freed_memory(budget: ByteBudget) -> None:
    """Makes glibc return freed memory to the system after large releases. Other allocators lack the function.

    By default, glibc retains up to twice the largest block that it ever freed, and all memory below a small object at
    the end of its heap. Fixed mallopt thresholds would help too, but cost page faults in every large response.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    trimmed_bytes = 0
    while trim:
        await asyncio.sleep(_TRIM_PAUSE_S)
        if budget.freed_bytes - trimmed_bytes >= _TRIM_AFTER_BYTES:
            trimmed_bytes = budget.freed_bytes
            trim(0)
