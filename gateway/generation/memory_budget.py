"""The byte budget of a process: request bodies, job inputs, replies, and responses not yet read by clients.

A tenant may take more while it then holds no more than remains free. Invariant: N tenants that take all they can,
in any order, leave at least 1/2^N of the budget free (1/(N+1) after each has released and taken again). A tenant
that holds nothing may take half of that, so no number of tenants fills the budget.

Requests beyond that are refused. Replies are paid for and never refused: without room they wait in the provider's
connection. What is received ahead of that is counted before the call is sent. One request per tenant proceeds while an
eighth is free, so that each tenant makes progress. One request of the process always proceeds, and the others' room is
counted without it.

At most the budget and that one request are held. Invariant: however a request ends, its account is closed and its
bytes are released.
"""

import asyncio
import ctypes
import mmap
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_RESERVED_PART: Final = 8
"""Reserved for tenants that hold little, against requests that exceed their tenant's share."""
_TRIM_PAUSE_S: Final = 2.0
_TRIM_AFTER_BYTES: Final = 16 * 1024 * 1024
"""Trimming less is not worth the milliseconds: the memory has to be mapped again for the next body."""
_IDLE_TRIM_AFTER_BYTES: Final = 2**20
"""The same for a process that took no memory in the last pause."""


@dataclass(slots=True, eq=False)
class ByteBudget:
    """The bytes held at one time, and their limit."""

    max_bytes: int
    held_bytes: int = 0
    held_by_tenant: Counter[str] = field(default_factory=Counter)
    over_share: dict[str, "ByteAccount"] = field(default_factory=dict)
    """The one request of each tenant that may exceed its share."""
    over_budget: "ByteAccount | None" = None
    """The one request that may exceed the budget."""
    freed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class ByteAccount:
    """Bytes held by one request."""

    budget: ByteBudget = field(default_factory=lambda: ByteBudget(sys.maxsize))
    """By default there is no limit."""
    tenant: str = ""
    held_bytes: int = 0

    def take(self, count: int) -> None:
        """Counts bytes before they are received. Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        if not self._has_room(count):
            total_bytes, tenant_bytes = self.budget.held_bytes, self.budget.held_by_tenant[self.tenant]
            if tenant_bytes + count > self.budget.max_bytes // 2:  # not even with everything else free
                raise GatewayError(ErrorCode.TENANT_MEMORY_FULL, f"{tenant_bytes} bytes are held")
            detail = f"{total_bytes} bytes are held, {tenant_bytes} of them by the tenant"
            raise GatewayError(ErrorCode.MEMORY_FULL, detail)
        self.note(count)

    async def wait_for(self, count: int) -> None:
        """Counts bytes of a reply as soon as there is room, or this request may exceed the budget."""
        while not self._has_room(count, is_reply=True):
            self.budget.freed.clear()
            await self.budget.freed.wait()
        self.note(count)

    async def wait_within(self, count: int, timeout_s: float) -> None:
        """Raises: GatewayError MEMORY_FULL if there is no room in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_for(count)
        except TimeoutError as error:
            raise GatewayError(ErrorCode.MEMORY_FULL, f"no room for {count} bytes within {timeout_s:g} s") from error

    def note(self, count: int) -> None:
        """Counts held bytes; a negative count releases them."""
        budget = self.budget
        self.held_bytes += count
        budget.held_bytes += count
        budget.held_by_tenant[self.tenant] += count
        if not budget.held_by_tenant[self.tenant]:
            del budget.held_by_tenant[self.tenant]
        if count < 0:
            budget.freed.set()

    def close(self) -> None:
        """Releases everything. Call once, when nothing of the request remains."""
        budget = self.budget
        if budget.over_share.get(self.tenant) is self:
            del budget.over_share[self.tenant]
        if budget.over_budget is self:
            budget.over_budget = None
        self.note(-self.held_bytes)
        budget.freed.set()

    def _has_room(self, count: int, *, is_reply: bool = False) -> bool:
        """Returns True if the tenant has a share left, or a reply may exceed it. A reply over budget never waits."""
        budget, beyond = self.budget, self.budget.over_budget
        left_bytes = budget.max_bytes - budget.held_bytes + (beyond.held_bytes if beyond else 0) - count
        if budget.held_by_tenant[self.tenant] + count <= left_bytes or (is_reply and beyond is self):
            return True
        if not is_reply or budget.over_share.setdefault(self.tenant, self) is not self:
            return False
        if left_bytes >= budget.max_bytes // _RESERVED_PART:
            return True
        if beyond:
            return False
        budget.over_budget = self
        budget.freed.set()  # the others' room is counted without it from now on
        return True


class _HeapStatistics(ctypes.Structure):
    """struct mallinfo2, in bytes (mallinfo(3))."""

    _fields_ = (("before", ctypes.c_size_t * 8), ("free", ctypes.c_size_t), ("keepcost", ctypes.c_size_t))


async def return_freed_memory() -> None:
    """Makes glibc 2.33 or newer return freed memory to the system after large releases of any kind, and when idle.

    By default, glibc retains up to twice the largest block that it ever freed, and all memory below a small object at
    the end of its heap. Fixed mallopt thresholds would help too, but cost page faults in every large response.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return
    library.mallinfo2.restype = _HeapStatistics

    def measure() -> tuple[int, int]:
        """Returns the free bytes of the heap, returned ones too until they are in use again, and the resident ones."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return library.mallinfo2().free, pages * mmap.PAGESIZE  # 1 ms for each 1000 free blocks

    least = found = measure()
    while True:
        await asyncio.sleep(_TRIM_PAUSE_S)
        (_, was_resident), found = found, await asyncio.to_thread(measure)
        least = min(least[0], found[0]), min(least[1], found[1])
        risen_bytes = max(found[0] - least[0], found[1] - least[1])  # released; taken, and perhaps released since
        if risen_bytes >= (_TRIM_AFTER_BYTES if found[1] > was_resident else _IDLE_TRIM_AFTER_BYTES):
            await asyncio.to_thread(library.malloc_trim, 0)  # 0.3 s for 450 MiB
            least = found = await asyncio.to_thread(measure)
