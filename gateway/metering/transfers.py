"""Concurrency of requests without a reservation: their body is received, or their response is sent.

Transfers are renewed like reservations. If the process dies, they expire without a charge.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal
from gateway.metering.decisions import AdmissionDecision, gateway_error
from gateway.metering.reservations import ReservationKeys
from gateway.redis import Client, load_script

_TICK_S: Final = 0.5


class Transfers:
    """The transfers of this process."""

    def __init__(
        self, redis: Client, lease_s: float, monotonic: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self.lease_ms = round(lease_s * 1000)
        self.new_id = new_id
        self.prefix = redis.prefix
        self.script = load_script(redis, "metering/transfer")
        self.held: set[Transfer] = set()
        self.ending: set[asyncio.Task[None]] = set()
        self._monotonic = monotonic

    async def run(self) -> None:
        """Renews transfers in progress; runs until cancelled."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._monotonic() - renewed_s >= self.lease_ms / 4000:
                renewed_s = self._monotonic()
                await asyncio.gather(*(transfer.renew() for transfer in self.held))

    async def flush(self) -> None:
        """Waits for ending transfers."""
        if self.ending:
            await asyncio.wait(self.ending)


class Transfer:
    """The transfer of one request; it may begin and end several times."""

    __slots__ = ("_caller", "_id", "_transfers")

    def __init__(self, transfers: Transfers, caller: Principal) -> None:
        self._transfers = transfers
        self._caller = caller
        self._id = transfers.new_id()

    async def begin(self, *, is_checked: bool = True) -> None:
        """Begins before the body is read, or, not checked against limits, before the response is sent.

        Raises: GatewayError RATE_LIMITED, REQUEST_EXCEEDS_LIMIT, REDIS_UNAVAILABLE.

        Redis: one round trip, lua/transfer.lua.
        """
        self._transfers.held.add(self)
        decision = await self._run(self._transfers.lease_ms, is_checked=is_checked)
        if decision.decision != "admitted":
            self._transfers.held.discard(self)
            raise gateway_error(decision, self._caller)

    def hand_over(self) -> str:
        """Hands it to a reservation, which ends it by this ID. Empty if it has not begun."""
        if self not in self._transfers.held:
            return ""
        self._transfers.held.discard(self)
        return self._id

    def end(self) -> None:
        """Ends it without waiting for Redis."""
        if self.hand_over():
            ending = asyncio.get_running_loop().create_task(self._end())
            self._transfers.ending.add(ending)
            ending.add_done_callback(self._transfers.ending.discard)

    async def renew(self) -> None:
        with suppress(GatewayError):  # the next round comes before it expires
            if self in self._transfers.held:
                await self._run(self._transfers.lease_ms, is_checked=False)

    async def _end(self) -> None:
        with suppress(GatewayError):  # then it expires
            await self._run(0, is_checked=False)

    async def _run(self, lease_ms: int, *, is_checked: bool) -> AdmissionDecision:
        tenant, key_id = self._caller.tenant.name, self._caller.key.id
        names = ReservationKeys.of(self._transfers.prefix, tenant, key_id)
        keys = [names.tenant, names.keys, names.open, names.key_open]
        keys += [name.removesuffix("open") + "transfers" for name in (names.open, names.key_open)]
        reply = await self._transfers.script(keys, [self._id, key_id, lease_ms, int(is_checked)])
        return msgspec.json.decode(str(reply), type=AdmissionDecision)
