"""Admission: every limit and quota of a tenant, taken in one script, all or nothing, and settled exactly once.

Invariant: whatever was reserved is settled. By the request's own process when it ends, also when it is cancelled; after
an outage of Redis by the same process as soon as Redis is back; after the death of the process by whoever sweeps.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.domain.billing import Durations, Purchase, Share, Usage
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.rates import Rates
from gateway.domain.tenants import Caller
from gateway.metrics import Metrics
from gateway.stores import Client, Value, load_script
from gateway.stores.guard import NotAskedError
from gateway.stores.tickets import (
    Settled,
    Terms,
    Ticket,
    base_of,
    calls_text,
    open_set,
    read_settled,
    tell_lost,
    ticket_record,
)
from gateway.stores.verdicts import Verdict, gateway_error, rates_of, usage_of

_LOG = structlog.get_logger("imagegate.admission")
_TICK_S: Final = 0.5
"""How soon after an outage of Redis its unsettled requests are settled."""
_FLUSH_S: Final = 5.0
_REMEMBERED_S: Final = 30.0
"""A Redis that comes back may have lost its last writes, with a snapshot or at a failover: what was settled so shortly
before is settled again, which moves nothing where it was kept."""
_DOUBTFUL_MAX: Final = 1000
"""So many admissions without an answer are taken back by their own process; more, in a long outage, by their expiry."""


class Admission:
    """Who may buy how much now."""

    def __init__(
        self,
        redis: Client,
        terms: Terms,
        metrics: Metrics,
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._redis = redis
        self._terms = terms
        self._metrics = metrics
        self._monotonic = monotonic
        self._new_id = new_id
        self._held: dict[str, Ticket] = {}
        """Under way here: their leases are renewed."""
        self._owed: dict[str, Ticket] = {}
        """Ended, and not yet settled because Redis did not answer or the request was cancelled."""
        self._remembered: deque[Ticket] = deque()
        """Settled lately, the oldest first."""
        self._was_away = False
        self._admit = load_script(redis, "admit")
        self._send = load_script(redis, "send")
        self._extend = load_script(redis, "extend")
        self._settle = load_script(redis, "settle")

    @asynccontextmanager
    async def admit(
        self, caller: Caller, purchase: Purchase, durations: Callable[[], Durations]
    ) -> AsyncIterator[Ticket]:
        """Reserve a purchase, and settle it by its tally on leaving, however it is left.

        Raises: GatewayError RATE_LIMITED, RATE_EXCEEDED_BY_ONE, QUOTA_EXHAUSTED, INVALID_API_KEY, REDIS_AWAY.
        Redis: one round trip to enter (lua/admit.lua), one to leave (lua/settle.lua).
        """
        ticket = Ticket(self._new_id(), caller, purchase, durations)
        try:
            verdict = await self._ask(caller, ticket.id, purchase)
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
            ticket.tally.close()
            ticket.spent, ticket.durations = ticket.durations(), Durations  # remembered, it must not keep its request
            self._owed[ticket.id] = self._held.pop(ticket.id)
            with suppress(GatewayError):  # it stays owed
                await self._pay(ticket)

    async def look(self, caller: Caller) -> Rates:
        """How the caller's rate limits stand. Raises: GatewayError REDIS_AWAY. Redis: one round trip, lua/admit.lua."""
        return rates_of(await self._ask(caller, ""))

    async def usage(self, tenant: str) -> Usage | None:
        """A tenant's counters; None where there is no such tenant. Redis: one round trip, lua/admit.lua."""
        return usage_of(await self._run_admit(tenant, "", ["", "", "", "", 0, "", 0]))

    async def open(self, ticket: Ticket, upstream: str, account: str, images: int) -> Share:
        """Note, before the first byte is sent, that images are ordered from an account.

        Returns: where to note what becomes of them.
        Raises: GatewayError TICKET_EXPIRED, REDIS_AWAY: then nothing may be sent.
        Redis: one round trip, lua/send.lua.
        """
        if not await self._note_order(ticket, upstream, account, images):
            raise GatewayError(Fault.TICKET_EXPIRED, f"ticket {ticket.id} was settled by others")
        return ticket.tally.open(upstream, account, images)

    async def free(self, ticket: Ticket, upstream: str, account: str, images: int) -> None:
        """Take back such a note: the order is known to have cost nothing. Redis: one round trip, lua/send.lua."""
        with suppress(GatewayError):  # only for the case that this process dies before it settles
            await self._note_order(ticket, upstream, account, -images)

    async def run(self) -> None:
        """Settle what is owed; for ever."""
        was_waiting = False
        while True:
            await asyncio.sleep(_TICK_S)
            are_paid = await self._pay_all()
            if not are_paid and not was_waiting:
                _LOG.warning("settlements_wait", owed=len(self._owed), under_way=len(self._held))
            was_waiting = not are_paid
            self._recall(is_back=self._was_away and are_paid)

    async def keep_alive(self) -> None:
        """Renew the leases of what is under way here, whatever else waits; for ever."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._monotonic() - renewed_s >= self._terms.lease_s / 4 and await self._renew():
                renewed_s = self._monotonic()

    async def flush(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Settle everything before the program ends, which has `left_s` seconds, and takes a few in any case.

        What Redis does not take by then is settled by expiry, as unconfirmed: what was delivered is known here alone.
        """
        began_s = self._monotonic()
        while self._owed or self._held:  # a request that was cut off now leaves in this moment
            await self._pay_all()
            if self._monotonic() - began_s >= _FLUSH_S and not left_s():
                break
            await asyncio.sleep(_TICK_S / 10)
        if self._owed or self._held:
            left = len(self._owed) + len(self._held)
            _LOG.error("settlements_left", tickets=left, remedy="they are settled by their expiry")

    def distrust(self) -> None:
        """Redis may have been restarted: what was settled lately is settled once more when it answers."""
        self._was_away = True

    async def settle_expired(self, tenant: str, ticket_id: str) -> None:
        """Settle the ticket of a dead process by what it says itself. Raises: GatewayError REDIS_AWAY."""
        answer = await self._settle([ticket_record(tenant, ticket_id), open_set(tenant)], [ticket_id, 1, *self._rule()])
        settled = read_settled(answer)
        self._count(settled, tenant)
        if settled.status == "settled":
            _LOG.warning("ticket_expired", tenant=tenant, ticket=ticket_id, outcome=settled.outcome)

    @property
    def owed(self) -> int:
        """Requests of this process that have ended and are not settled."""
        return len(self._owed)

    async def _ask(self, caller: Caller, ticket_id: str, purchase: Purchase | None = None) -> Verdict:
        args: list[Value] = [ticket_id, caller.key.id]
        if purchase:
            prices = ",".join(f"{price.since_s}:{price.usd_micros}" for price in purchase.prices)
            args += [purchase.request_id, purchase.model, purchase.images, prices]
        else:
            args += ["", "", 0, ""]
        return await self._run_admit(caller.tenant.name, caller.key.id, [*args, round(self._terms.lease_s * 1000)])

    async def _run_admit(self, tenant: str, key_id: str, args: list[Value]) -> Verdict:
        base, key_base = base_of(tenant), base_of(tenant) + f"key:{key_id}:"
        keys = [f"{base}tenant", f"{base}keys", ticket_record(tenant, str(args[0])), f"{base}open", f"{key_base}open"]
        answer = await self._watched(self._admit([*keys, f"{base}rate", f"{key_base}rate"], args))
        return msgspec.json.decode(str(answer), type=Verdict, strict=False)

    async def _note_order(self, ticket: Ticket, upstream: str, account: str, images: int) -> bool:
        tenant, key_id = ticket.caller.tenant.name, ticket.caller.key.id
        keys = [ticket_record(tenant, ticket.id), open_set(tenant), base_of(tenant) + f"key:{key_id}:open"]
        args: list[Value] = [ticket.id, f"{upstream}/{account}", images, round(self._terms.lease_s * 1000)]
        return await self._watched(self._send(keys, args)) == 1

    async def _pay_all(self) -> bool:
        """Settle what is owed, by tenant: one that cannot be settled keeps no other. Returns: whether all were."""
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
        """Settle a ticket; twice does no harm. Raises: GatewayError REDIS_AWAY."""
        tenant, key_id, spent = ticket.caller.tenant.name, ticket.caller.key.id, ticket.spent
        args: list[Value] = [ticket.id, 0, *self._rule(), ticket.tally.settlement.value]
        args += [int(ticket.tally.reached_upstream), calls_text(ticket.tally)]
        args += [spent.queue_ms, spent.upstream_ms, spent.total_ms, key_id]
        settled = read_settled(
            await self._watched(self._settle([ticket_record(tenant, ticket.id), open_set(tenant)], args))
        )
        if self._owed.pop(ticket.id, None) is None:
            return  # settled meanwhile by the other of the request and the companion
        if settled.status == "gone" and ticket.tally.reached_upstream and not ticket.is_lost:
            ticket.is_lost = True
            tell_lost(ticket)
        if ticket.settled_s is None:
            self._count(settled, tenant)
            ticket.charged_usd_micros = settled.usd_micros
            ticket.settled_s = self._monotonic()
            self._remembered.append(ticket)

    def _recall(self, *, is_back: bool) -> None:
        """Forget what was settled long enough ago, but not during an outage; after it the rest is owed once more."""
        if is_back:
            self._owed.update({ticket.id: ticket for ticket in self._remembered})
            self._was_away = False
        while (
            not self._was_away
            and self._remembered
            and (self._remembered[0].settled_s or 0) < self._monotonic() - _REMEMBERED_S
        ):
            self._remembered.popleft()

    async def _watched(self, call: Awaitable[object]) -> object:
        """The answer of a script. A connection that broke may mean a restart; a late answer does not.

        Raises: GatewayError REDIS_AWAY.
        """
        try:
            return await call
        except GatewayError as error:
            if isinstance(error.__cause__, RedisConnectionError) and not isinstance(error.__cause__, NotAskedError):
                self.distrust()
            raise

    async def _renew(self) -> bool:
        """Renew every lease, tenant by tenant: one that fails keeps no other. Returns: whether all were."""
        by_tenant: dict[str, list[Value]] = {}
        for ticket in (*self._held.values(), *self._owed.values()):
            by_tenant.setdefault(ticket.caller.tenant.name, []).extend((ticket.id, ticket.caller.key.id))
        return all(await asyncio.gather(*(self._renew_tenant(*entry) for entry in by_tenant.items())))

    async def _renew_tenant(self, tenant: str, tickets: list[Value]) -> bool:
        try:
            await self._watched(self._extend([open_set(tenant)], [round(self._terms.lease_s * 1000), *tickets]))
        except GatewayError:
            return False
        return True

    def _rule(self) -> list[Value]:
        rule = self._terms.rule
        return [int(rule.charges_withheld), int(rule.charges_unconfirmed), self._terms.ledger_days]

    def _count(self, settled: Settled, tenant: str) -> None:
        if settled.status in {"settled", "corrected", "repeated"}:
            outcome = settled.status if settled.status == "corrected" else settled.outcome
            self._metrics.settlements.labels(outcome).inc()
            if settled.usd_micros > 0:
                self._metrics.spend_usd.labels(settled.model, tenant).inc(settled.usd_micros / 1e6)
