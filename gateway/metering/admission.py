"""Admission: every limit and quota of a tenant, taken in one script, all or nothing, and settled exactly once.

Invariant: whatever was reserved is settled. By the request's own process when it ends, also when it is cancelled; after
an outage of Redis by the same process as soon as Redis is back; after the death of the process by its journal, which
knows what was delivered, and by the sweeper.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import msgspec
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.domain.billing import Durations, Purchase, Usage
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Caller, Rates
from gateway.metering.decisions import Verdict, gateway_error, rates_of, usage_of
from gateway.metering.reservations import Names, Terms, Ticket, TicketOutcome, settlement_key
from gateway.metering.settlement import Settling
from gateway.observability.metrics import Metrics
from gateway.redis import Client, Value, load_script
from gateway.redis.call_guard import NotAskedError
from gateway.redis.journal import Journal

_LOG = structlog.get_logger("imagegate.admission")
_T = TypeVar("_T")
_TICK_S: Final = 0.5
"""Delay after an outage of Redis before its unsettled requests are settled."""
_FLUSH_S: Final = 5.0
_REMEMBERED_S: Final = 30.0
"""A Redis that comes back may have lost its last writes, with a snapshot or at a failover: what was settled so shortly
before is settled again, which moves nothing where it was kept."""
_DOUBTFUL_MAX: Final = 1000
"""Limit on admissions of unknown outcome that this process undoes itself. Beyond it, they expire."""


class Admission:
    """Admits purchases within every limit and quota, and settles them."""

    def __init__(
        self,
        redis: Client,
        terms: Terms,
        metrics: Metrics,
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
        journal: Journal = Journal(),  # noqa: B008 - off, so it holds nothing
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._terms = terms
        self._monotonic = monotonic
        self._new_id = new_id
        self._journal = journal
        self._clock = clock
        self._settling = Settling(redis, terms, metrics)
        self.settle_expired, self.replay = self._settling.settle_expired, self._settling.replay
        self._held: dict[str, Ticket] = {}
        """In progress in this process, which renews their leases."""
        self._owed: dict[str, Ticket] = {}
        """Ended, and not yet settled because Redis did not answer or the request was cancelled."""
        self._remembered: deque[Ticket] = deque()
        """Settled recently, the oldest first."""
        self._was_away = False
        self._admit = load_script(redis, "admit")
        self._send = load_script(redis, "send")
        self._extend = load_script(redis, "extend")

    @asynccontextmanager
    async def admit(
        self, caller: Caller, purchase: Purchase, durations: Callable[[], Durations], transfer_id: str = ""
    ) -> AsyncIterator[Ticket]:
        """Reserves a purchase, ends its transfer, and settles it by its tally on exit, whatever the reason.

        Raises: GatewayError RATE_LIMITED, RATE_EXCEEDED_BY_ONE, QUOTA_EXHAUSTED, INVALID_API_KEY, REDIS_AWAY.
        Redis: one round trip to enter (lua/admit.lua), one to leave (lua/settle.lua).
        """
        ticket = Ticket(self._new_id(), caller, purchase, durations, self._note_order)
        try:
            verdict = await self._ask(caller.tenant.name, caller.key.id, ticket.id, purchase, transfer_id)
        except BaseException as error:
            # The script may have run, or may yet run when Redis wakes up, unless it was never sent.
            if len(self._owed) < _DOUBTFUL_MAX and not isinstance(error.__cause__, NotAskedError):
                self._owed[ticket.id] = ticket
            raise
        ticket.rates = rates_of(verdict)
        if verdict.verdict != "admitted":
            raise gateway_error(verdict, caller)
        self._held[ticket.id] = ticket
        try:
            yield ticket
        finally:
            ticket.end(self._clock())
            self._owed[ticket.id] = self._held.pop(ticket.id)
            await self._pay_or_keep(ticket)

    async def look(self, caller: Caller, *, is_refused: bool = False) -> Rates:
        """Reads the status of the rate limits; counts a request that was refused for its content.

        Raises: GatewayError REDIS_AWAY; if the minute is full, what `admit` raises. Redis: one round trip.
        """
        verdict = await self._ask(caller.tenant.name, caller.key.id, is_refused=is_refused)
        if verdict.verdict == "rate":
            raise gateway_error(verdict, caller)
        return rates_of(verdict)

    async def usage(self, tenant: str) -> Usage | None:
        """A tenant's counters; None if there is no such tenant. Redis: one round trip, lua/admit.lua."""
        return usage_of(await self._ask(tenant))

    async def run(self) -> None:
        """Settles what is owed; runs until cancelled."""
        was_waiting = False
        while True:
            await asyncio.sleep(_TICK_S)
            are_paid = await self._pay_all()
            if not are_paid and not was_waiting:
                _LOG.warning("settlements_wait", owed=len(self._owed), under_way=len(self._held))
            was_waiting = not are_paid
            if self._was_away:  # Redis may come back without its last writes, and find this process gone
                await self._keep(self._remembered)
            self._recall(is_back=self._was_away and are_paid)
            with suppress(GatewayError):
                await self._settling.lost.tell()

    async def keep_alive(self) -> None:
        """Renews the leases of reservations in progress; runs until cancelled."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._monotonic() - renewed_s >= self._terms.lease_s / 4 and await self._renew():
                renewed_s = self._monotonic()

    async def flush(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Settles everything before shutdown, which has `left_s` seconds and takes a few in any case.

        What Redis does not take by then is left to the journal, and without one to expiry, as unconfirmed. It waits all
        the same: the journal's directory may end with the machine or the pod.
        """
        began_s = self._monotonic()
        while self._owed or self._held:  # a request that was cut off now leaves in this moment
            await self._pay_all()
            if self._monotonic() - began_s >= _FLUSH_S and not left_s():
                break
            await asyncio.sleep(_TICK_S / 10)
        await self._keep([*self._owed.values(), *(self._remembered if self._was_away else ())])
        kept = [ticket_id for ticket_id in self._owed if self._journal.holds(settlement_key(ticket_id))]
        if kept:
            _LOG.warning("settlements_journaled", tickets=len(kept))
        if left := len(self._owed) + len(self._held) - len(kept):
            _LOG.error("settlements_left", tickets=left, remedy="they are settled by their expiry")
        with suppress(GatewayError):
            await self._settling.lost.tell()

    def distrust(self) -> None:
        """Redis may have been restarted: what was settled lately is settled once more when it answers."""
        self._was_away = True

    @property
    def owed(self) -> int:
        """Requests of this process that have ended and are not settled."""
        return len(self._owed)

    async def _ask(
        self,
        tenant: str,
        key_id: str = "",
        ticket: str = "",
        purchase: Purchase | None = None,
        transfer: str = "",
        *,
        is_refused: bool = False,
    ) -> Verdict:
        args: list[Value] = [ticket, key_id]
        if purchase:
            args += [purchase.request_id, purchase.model, purchase.images, purchase.costs()]
        else:
            args += ["", "", 0, ""]
        args += [round(self._terms.lease_s * 1000), int(is_refused), self._terms.recent_max, self._terms.records_max]
        reply = await self._watched(self._admit([*Names.of(tenant, key_id, ticket)], [*args, transfer]))
        return msgspec.json.decode(str(reply), type=Verdict, strict=False)

    async def _note_order(self, ticket: Ticket, upstream: str, account: str, images: int) -> bool:
        args: list[Value] = [ticket.id, f"{upstream}/{account}", images, round(self._terms.lease_s * 1000)]
        names = Names.of(ticket.caller.tenant.name, ticket.caller.key.id, ticket.id)
        return await self._watched(self._send([names.ticket, names.open, names.key_open], args)) == 1

    async def _pay_all(self) -> bool:
        """Settles what is owed, by tenant: a failure delays that tenant only. Returns: whether all were settled."""
        by_tenant: dict[str, list[Ticket]] = {}
        for ticket in self._owed.values():
            by_tenant.setdefault(ticket.caller.tenant.name, []).append(ticket)
        return all(await asyncio.gather(*(self._pay_tenant(tickets) for tickets in by_tenant.values())))

    async def _pay_tenant(self, tickets: list[Ticket]) -> bool:
        """Returns: whether all were settled; after a Redis that does not answer the rest wait for the next time."""
        are_paid = True
        for ticket in tickets:
            try:
                await self._pay(ticket)
            except GatewayError as error:
                are_paid = False
                if not isinstance(error.__cause__, ResponseError):
                    break
        return are_paid

    async def _pay(self, ticket: Ticket) -> None:
        """Settles a reservation; idempotent. Raises: GatewayError REDIS_AWAY."""
        outcome = TicketOutcome.of(ticket, self._terms.rule)
        settled = await self._watched(self._settling.settle(outcome))
        if self._owed.pop(ticket.id, None) is None:
            return  # settled meanwhile by the other of the request and the companion
        self._journal.done(settlement_key(ticket.id))
        if settled.status == "gone" and outcome.was_sent and not ticket.is_lost:
            ticket.is_lost = True
            self._settling.lost.suspect(outcome)
        if ticket.settled_s is None:
            self._settling.count(settled, outcome.tenant)
            ticket.charged_usd_micros = settled.usd_micros
            ticket.settled_s = self._monotonic()
            self._remembered.append(ticket)

    async def _pay_or_keep(self, ticket: Ticket) -> None:
        """Settles a reservation before its response is sent. If that fails, journals it, and it stays owed."""
        try:
            await self._pay(ticket)
        except BaseException as error:
            if ticket.id in self._owed:
                await self._keep([ticket])
            if not isinstance(error, GatewayError):
                raise

    async def _keep(self, tickets: Iterable[Ticket]) -> None:
        """Journals the outcome of orders. Without an order, expiry has the same result: it is free."""
        ordered = (ticket for ticket in tickets if ticket.tally.shares)
        new = (ticket for ticket in ordered if self._journal.wants(settlement_key(ticket.id)))
        await self._journal.note(TicketOutcome.of(ticket, self._terms.rule).entry() for ticket in new)

    def _recall(self, *, is_back: bool) -> None:
        """Drops what was settled long ago, but not during an outage; afterwards the rest is owed once more."""
        if is_back:
            self._owed.update({ticket.id: ticket for ticket in self._remembered})
            self._was_away = False
        while (
            not self._was_away
            and self._remembered
            and (self._remembered[0].settled_s or 0) < self._monotonic() - _REMEMBERED_S
        ):
            self._remembered.popleft()

    async def _watched(self, call: Awaitable[_T]) -> _T:
        """The reply of a script. A broken connection may mean a restart of Redis; a late reply does not.

        Raises: GatewayError REDIS_AWAY.
        """
        try:
            return await call
        except GatewayError as error:
            if isinstance(error.__cause__, RedisConnectionError) and not isinstance(error.__cause__, NotAskedError):
                self.distrust()
            raise

    async def _renew(self) -> bool:
        """Renews every lease, by tenant: a failure affects that tenant only. Returns: whether all were renewed."""
        by_tenant: dict[str, list[Value]] = {}
        for ticket in (*self._held.values(), *self._owed.values()):
            by_tenant.setdefault(ticket.caller.tenant.name, []).extend((ticket.id, ticket.caller.key.id))
        return all(await asyncio.gather(*(self._renew_tenant(*entry) for entry in by_tenant.items())))

    async def _renew_tenant(self, tenant: str, tickets: list[Value]) -> bool:
        try:
            await self._watched(self._extend([Names.of(tenant).open], [round(self._terms.lease_s * 1000), *tickets]))
        except GatewayError:
            return False
        return True
