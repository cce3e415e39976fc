"""Admission: every limit and quota of a tenant, taken in one script, all or nothing, and settled exactly once.

Invariant: whatever was reserved is settled. By the request's own process when it ends, also when it is cancelled; after
an outage of Redis by the same process as soon as Redis is back; after the death of the process by whoever sweeps.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from gateway.domain.billing import BillingRule, Durations, Purchase, Share, Tally, Usage
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.rates import Rates
from gateway.domain.tenants import Caller
from gateway.metrics import Metrics
from gateway.stores import PREFIX, Client, Value, load_script
from gateway.stores.verdicts import Verdict, gateway_error, rates_of, usage_of

_LOG = structlog.get_logger("imagegate.admission")
_TICK_S: Final = 0.5
"""How soon after an outage of Redis its unsettled requests are settled."""
_FLUSH_S: Final = 5.0
_DOUBTFUL_MAX: Final = 1000
"""So many admissions without an answer are taken back by their own process; more, in a long outage, by their expiry."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The operator's choices about tickets and money."""

    rule: BillingRule
    lease_s: float
    """A ticket whose process gives no sign of life for so long is settled by others."""
    ledger_days: int
    """For which detailed records are kept."""


class Settled(msgspec.Struct, frozen=True):
    """settle.lua's answer."""

    status: str
    outcome: str = ""
    model: str = ""
    usd_micros: int = 0


@dataclass(slots=True)
class Ticket:
    """A reservation: the right to order so many images at this price, until it is settled."""

    id: str
    caller: Caller
    purchase: Purchase
    durations: Callable[[], Durations]
    rates: Rates = field(default_factory=Rates)
    tally: Tally = field(default_factory=Tally)
    spent: Durations = field(default_factory=Durations)
    """Told when it is left."""


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
        except BaseException:
            if len(self._owed) < _DOUBTFUL_MAX:  # the script may have run, or may yet run when Redis wakes up
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
            ticket.spent = ticket.durations()
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
        """Renew the leases of what is under way here, and settle what is owed; for ever."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                await self._pay_all()
                if self._monotonic() - renewed_s >= self._terms.lease_s / 4:
                    await self._renew()
                    renewed_s = self._monotonic()
            except GatewayError as error:
                _LOG.warning("settlements_wait", detail=error.detail, owed=len(self._owed), under_way=len(self._held))

    async def flush(self) -> None:
        """Settle what is owed before the program ends; what Redis does not take now is settled by expiry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                while self._owed:
                    with suppress(GatewayError):
                        await self._pay_all()
                    await asyncio.sleep(_TICK_S if self._owed else 0)
        if self._owed:
            _LOG.error("settlements_left", tickets=len(self._owed), remedy="they are settled by their expiry")

    async def settle_expired(self, tenant: str, ticket_id: str) -> None:
        """Settle the ticket of a dead process by what it says itself. Raises: GatewayError REDIS_AWAY."""
        answer = await self._settle([_ticket(tenant, ticket_id), _open(tenant)], [ticket_id, 1, *self._rule()])
        settled = _read_settled(answer)
        self._count(settled, tenant)
        if settled.status == "settled":
            _LOG.warning("ticket_expired", tenant=tenant, ticket=ticket_id, outcome=settled.outcome)

    async def _ask(self, caller: Caller, ticket_id: str, purchase: Purchase | None = None) -> Verdict:
        args: list[Value] = [ticket_id, caller.key.id]
        if purchase:
            prices = ",".join(f"{price.since_s}:{price.usd_micros}" for price in purchase.prices)
            args += [purchase.request_id, purchase.model, purchase.images, prices]
        else:
            args += ["", "", 0, ""]
        return await self._run_admit(caller.tenant.name, caller.key.id, [*args, round(self._terms.lease_s * 1000)])

    async def _run_admit(self, tenant: str, key_id: str, args: list[Value]) -> Verdict:
        base, key_base = _base(tenant), _base(tenant) + f"key:{key_id}:"
        keys = [f"{base}tenant", f"{base}keys", _ticket(tenant, str(args[0])), f"{base}open", f"{key_base}open"]
        answer = await self._admit([*keys, f"{base}rate", f"{key_base}rate"], args)
        return msgspec.json.decode(str(answer), type=Verdict)

    async def _note_order(self, ticket: Ticket, upstream: str, account: str, images: int) -> bool:
        tenant, key_id = ticket.caller.tenant.name, ticket.caller.key.id
        keys = [_ticket(tenant, ticket.id), _open(tenant), _base(tenant) + f"key:{key_id}:open"]
        args: list[Value] = [ticket.id, f"{upstream}/{account}", images, round(self._terms.lease_s * 1000)]
        return await self._send(keys, args) == 1

    async def _pay_all(self) -> None:
        """Raises: GatewayError REDIS_AWAY."""
        for ticket in list(self._owed.values()):
            await self._pay(ticket)

    async def _pay(self, ticket: Ticket) -> None:
        """Settle a ticket; twice does no harm. Raises: GatewayError REDIS_AWAY."""
        tenant, spent = ticket.caller.tenant.name, ticket.spent
        args: list[Value] = [ticket.id, 0, *self._rule(), ticket.tally.settlement.value]
        args += [int(ticket.tally.reached_upstream), _calls_text(ticket.tally)]
        args += [spent.queue_ms, spent.upstream_ms, spent.total_ms]
        settled = _read_settled(await self._settle([_ticket(tenant, ticket.id), _open(tenant)], args))
        if self._owed.pop(ticket.id, None) is None:
            return  # settled meanwhile by the other of the request and the companion
        self._count(settled, tenant)
        if settled.status == "gone" and ticket.tally.reached_upstream:
            _LOG.error(
                "settlement_lost",
                tenant=tenant,
                request_id=ticket.purchase.request_id,
                images=ticket.purchase.images,
                calls=_calls_text(ticket.tally),
                remedy="Redis has lost the reservation: this request is in no bill",
            )

    async def _renew(self) -> None:
        """Raises: GatewayError REDIS_AWAY."""
        by_tenant: dict[str, list[Value]] = {}
        for ticket in (*self._held.values(), *self._owed.values()):
            by_tenant.setdefault(ticket.caller.tenant.name, []).extend((ticket.id, ticket.caller.key.id))
        for tenant, tickets in by_tenant.items():
            await self._extend([_open(tenant)], [round(self._terms.lease_s * 1000), *tickets])

    def _rule(self) -> list[Value]:
        rule = self._terms.rule
        return [int(rule.charges_withheld), int(rule.charges_unconfirmed), self._terms.ledger_days]

    def _count(self, settled: Settled, tenant: str) -> None:
        if settled.status in {"settled", "corrected", "repeated"}:
            self._metrics.settlements.labels(settled.outcome).inc()
            if settled.usd_micros > 0:
                self._metrics.spend_usd.labels(settled.model, tenant).inc(settled.usd_micros / 1e6)


def _read_settled(answer: object) -> Settled:
    return msgspec.json.decode(str(answer), type=Settled)


def _calls_text(tally: Tally) -> str:
    """As settle.lua and the ledger have it."""
    return ";".join(
        f"{upstream}/{account}:{share.delivered},{share.withheld},{share.lost},{share.unconfirmed}"
        for (upstream, account), share in sorted(tally.shares.items())
        if share.was_reached
    )


def _base(tenant: str) -> str:
    return f"{PREFIX}:{{{tenant}}}:"


def _ticket(tenant: str, ticket_id: str) -> str:
    return f"{_base(tenant)}ticket:{ticket_id}"


def _open(tenant: str) -> str:
    return f"{_base(tenant)}open"
