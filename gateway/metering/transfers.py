"""Concurrency of requests without a reservation: their body is received, or their response is sent.

Transfers are renewed like reservations. If the process dies, they expire without a charge.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal
from gateway.metering.decisions import AdmissionDecision, gateway_error
from gateway.metering.reservations import redis_keys
from gateway.redis import Client, load_script


class Transfers:
    """The transfers of this process."""

    def __init__(self, redis: Client, lease_s: float, new_id: Callable[[], str]) -> None:
        self.lease_ms = round(lease_s * 1000)
        self.new_id = new_id
        self.prefix = redis.prefix
        self.script = load_script(redis, "metering/transfer")
        self.held: set[Transfer] = set()
        self.ending: set[asyncio.Task[AdmissionDecision]] = set()

    async def run(self) -> None:
        """Renews transfers in progress; runs until cancelled."""
        while True:
            await asyncio.sleep(self.lease_ms / 4000)
            await asyncio.gather(*(transfer.renew() for transfer in self.held))

    async def flush(self) -> None:
        """Waits for ending transfers."""
        if self.ending:
            await asyncio.wait(self.ending)


@dataclass(slots=True, eq=False, repr=False)
class Transfer:
    """The transfer of one request; it may begin and end several times."""

    transfers: Transfers
    caller: Principal
    id: str = ""
    """Set when it begins."""

    async def begin(self, *, is_checked: bool = True) -> None:
        """Begins before the body is read, or, not checked against limits, before the response is sent.

        Raises: GatewayError RATE_LIMITED, REQUEST_EXCEEDS_LIMIT, REDIS_UNAVAILABLE; nothing if it is not checked.
        Redis: one round trip, lua/transfer.lua.
        """
        self.id = self.id or self.transfers.new_id()
        self.transfers.held.add(self)
        decision = await self._run(self.transfers.lease_ms, is_checked=is_checked)
        if decision.decision != "admitted":
            self.transfers.held.discard(self)
            raise gateway_error(decision, self.caller)

    def hand_over(self) -> str:
        """Hands it to a reservation, which ends it by this ID. Empty if it has not begun."""
        if self not in self.transfers.held:
            return ""
        self.transfers.held.discard(self)
        return self.id

    def end(self) -> None:
        """Ends it without waiting for Redis."""
        if self.hand_over():
            ending = asyncio.get_running_loop().create_task(self._run(0))
            self.transfers.ending.add(ending)
            ending.add_done_callback(self.transfers.ending.discard)

    async def renew(self) -> None:
        if self in self.transfers.held:
            await self._run(self.transfers.lease_ms)

    async def _run(self, lease_ms: int, *, is_checked: bool = False) -> AdmissionDecision:
        key_id = self.caller.key.id
        scopes = [f"{prefix}{name}" for name in ("open", "transfers") for prefix in ("", f"key:{key_id}:")]
        keys = redis_keys(self.transfers.prefix, self.caller.tenant.name, "tenant", "keys", *scopes)
        try:
            reply = await self.transfers.script(keys, [self.id, key_id, lease_ms, int(is_checked)])
        except GatewayError:
            if is_checked:
                raise
            return AdmissionDecision("admitted")  # the next round comes before it expires; an ended one expires
        return msgspec.json.decode(str(reply), type=AdmissionDecision)
