"""Concurrency of requests for which no reservation counts: their body arrives, or their response is sent.

A transfer is renewed like a reservation. One whose process died expires by itself: nothing is owed for it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from gateway.domain.faults import GatewayError
from gateway.domain.tenants import Caller
from gateway.stores import Client, load_script
from gateway.stores.tickets import base_of, open_set
from gateway.stores.verdicts import Verdict, gateway_error

_TICK_S: Final = 0.5


class Transfer:
    """Of one request: it begins and ends several times."""

    __slots__ = ("_transfers", "caller", "id")

    def __init__(self, transfers: "Transfers", caller: Caller, transfer_id: str) -> None:
        self._transfers = transfers
        self.caller = caller
        self.id = transfer_id

    async def begin(self) -> None:
        """Before the body is read. Raises: GatewayError RATE_LIMITED, RATE_EXCEEDED_BY_ONE, REDIS_AWAY."""
        await self._transfers.begin(self, checks=True)

    async def go_on(self) -> None:
        """Once the reservation is settled and the response is still to be sent. Never fails."""
        with suppress(GatewayError):
            await self._transfers.begin(self, checks=False)

    def hand_over(self) -> str:
        """Its id, by which its reservation ends it. Empty if it has not begun."""
        return self.id if self._transfers.forget(self) else ""

    def end(self) -> None:
        """Does not wait."""
        self._transfers.end(self)


class Transfers:
    """Those of this process."""

    def __init__(
        self, redis: Client, lease_s: float, monotonic: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._new_id = new_id
        self._script = load_script(redis, "transfer")
        self._held: set[Transfer] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, caller: Caller) -> Transfer:
        return Transfer(self, caller, self._new_id())

    async def begin(self, transfer: Transfer, *, checks: bool) -> None:
        """Redis: one round trip, lua/transfer.lua. Raises: GatewayError."""
        self._held.add(transfer)
        verdict = await self._run(transfer, round(self._lease_s * 1000), checks=checks)
        if verdict.verdict != "admitted":
            self._held.discard(transfer)
            raise gateway_error(verdict, transfer.caller)

    def forget(self, transfer: Transfer) -> bool:
        """Renews it no more. Returns: whether it had begun."""
        is_held = transfer in self._held
        self._held.discard(transfer)
        return is_held

    def end(self, transfer: Transfer) -> None:
        if self.forget(transfer):
            ending = asyncio.get_running_loop().create_task(self._end(transfer))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def run(self) -> None:
        """Renews what is held; runs until cancelled."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._monotonic() - renewed_s >= self._lease_s / 4:
                renewed_s = self._monotonic()
                await asyncio.gather(*(self._renew(transfer) for transfer in self._held))

    async def flush(self) -> None:
        """Waits for the transfers that are ending."""
        if self._ending:
            await asyncio.wait(self._ending)

    async def _renew(self, transfer: Transfer) -> None:
        with suppress(GatewayError):  # the next round comes before it expires
            if transfer in self._held:
                await self._run(transfer, round(self._lease_s * 1000), checks=False)

    async def _end(self, transfer: Transfer) -> None:
        with suppress(GatewayError):  # then it expires
            await self._run(transfer, 0, checks=False)

    async def _run(self, transfer: Transfer, lease_ms: int, *, checks: bool) -> Verdict:
        tenant, key_id = transfer.caller.tenant.name, transfer.caller.key.id
        base, key_base = base_of(tenant), f"{base_of(tenant)}key:{key_id}:"
        keys = [f"{base}tenant", f"{base}keys", open_set(tenant), f"{key_base}open"]
        keys += [f"{base}transfers", f"{key_base}transfers"]
        answer = await self._script(keys, [transfer.id, key_id, lease_ms, int(checks)])
        return msgspec.json.decode(str(answer), type=Verdict)
