"""Tickets: what is kept of a request from its admission to its settlement, here and under which names in Redis."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

import msgspec

from gateway.domain.billing import BillingRule, Durations, OpenOrder, Purchase, Tally
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.tenants import Caller, Rates
from gateway.stores import PREFIX, Value
from gateway.stores.journal_file import Entry

SETTLE: Final = "settle"
"""The journal's kind of entry."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The operator's choices about tickets and money."""

    rule: BillingRule
    lease_s: float
    """A ticket whose process gives no sign of life for so long is settled by others."""
    ledger_days: int
    """For which detailed records are kept."""
    recent_max: int = 100_000
    """Tickets of one tenant that Redis holds at a time."""
    records_max: int = 1_000_000
    """Records of one tenant's day."""


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
    note_order: Callable[["Ticket", str, str, int], Awaitable[bool]] = field(repr=False)
    """Notes images of an account in Redis; False if the reservation was settled already."""
    rates: Rates = field(default_factory=Rates)
    tally: Tally = field(default_factory=Tally)
    spent: Durations = field(default_factory=Durations)
    """Told when it is left."""
    ended_s: float = 0.0
    """Unix seconds; likewise."""
    charged_usd_micros: int | None = None
    """None while it is not settled."""
    settled_s: float | None = None
    """When it was settled, monotonic; None while it is not."""
    is_lost: bool = False
    """Redis does not know its reservation."""

    async def mark_sent(self, upstream: str, account: str, images: int) -> OpenOrder:
        """Notes, before the first byte is sent, that images are ordered from an account.

        Returns: the order, in which its outcome is to be noted.
        Raises: GatewayError TICKET_EXPIRED, REDIS_AWAY: then nothing may be sent.
        Redis: one round trip, lua/send.lua.
        """
        if not await self.note_order(self, upstream, account, images):
            raise GatewayError(Fault.TICKET_EXPIRED, f"ticket {self.id} was settled by others")
        return OpenOrder(self.tally.open(upstream, account, images), images)

    async def take_back(self, upstream: str, account: str, images: int) -> None:
        """Takes back the note of an order that is known to be free. Redis: one round trip, lua/send.lua."""
        with suppress(GatewayError):  # it matters only if this process dies before it settles
            await self.note_order(self, upstream, account, -images)

    def end(self, now_s: float) -> None:
        """Nothing is noted any more; `now_s` is Unix time. What is remembered of it must not keep its request."""
        self.tally.close()
        self.spent, self.durations = self.durations(), Durations
        self.ended_s = now_s


class TicketOutcome(msgspec.Struct, frozen=True):
    """How a request ended: what settle.lua is called with, now or from a journal."""

    ticket: str
    tenant: str
    key_id: str
    request_id: str
    images: int
    """Asked for."""
    settlement: str
    was_sent: bool
    calls: str
    queue_ms: int
    upstream_ms: int
    total_ms: int
    ended_s: float
    """Unix seconds."""
    charges_withheld: bool
    charges_unconfirmed: bool

    @classmethod
    def of(cls, ticket: Ticket, rule: BillingRule) -> Self:
        """Of a ticket whose tally is closed, and which ends under this rule."""
        spent, tally = ticket.spent, ticket.tally
        return cls(
            ticket.id,
            ticket.caller.tenant.name,
            ticket.caller.key.id,
            ticket.purchase.request_id,
            ticket.purchase.images,
            tally.settlement.value,
            tally.reached_upstream,
            calls_text(tally),
            *(spent.queue_ms, spent.upstream_ms, spent.total_ms),
            ticket.ended_s,
            rule.charges_withheld,
            rule.charges_unconfirmed,
        )

    def entry(self) -> Entry:
        """For the journal."""
        return Entry(SETTLE, self.ticket, msgspec.Raw(msgspec.json.encode(self)))

    def arguments(self, ledger_days: int) -> list[Value]:
        """As settle.lua wants them."""
        args: list[Value] = [self.ticket, 0, int(self.charges_withheld), int(self.charges_unconfirmed), ledger_days]
        args += [self.settlement, int(self.was_sent), self.calls]
        return [*args, self.queue_ms, self.upstream_ms, self.total_ms, self.key_id]


def read_settled(answer: object) -> Settled:
    """Raises: GatewayError INTERNAL for what settle.lua cannot have answered."""
    try:
        return msgspec.json.decode(str(answer), type=Settled)
    except msgspec.MsgspecError as error:
        raise GatewayError(Fault.INTERNAL, f"settle.lua: {error}") from error


def calls_text(tally: Tally) -> str:
    """As settle.lua and the ledger have it."""
    return ";".join(
        f"{upstream}/{account}:{share.delivered},{share.withheld},{share.lost},{share.unconfirmed}"
        for (upstream, account), share in sorted(tally.shares.items())
        if share.was_reached
    )


def settlement_key(ticket_id: str) -> str:
    """Of its entry in the journal."""
    return f"{SETTLE} {ticket_id}"


def base_of(tenant: str) -> str:
    return f"{PREFIX}:{{{tenant}}}:"


def ticket_record(tenant: str, ticket_id: str) -> str:
    return f"{base_of(tenant)}ticket:{ticket_id}"


def open_set(tenant: str) -> str:
    return f"{base_of(tenant)}open"


def admission_keys(tenant: str, key_id: str, ticket_id: str) -> list[str]:
    """Of admit.lua."""
    base, key_base = base_of(tenant), _base_of_key(tenant, key_id)
    records = [f"{base}tenant", f"{base}keys", ticket_record(tenant, ticket_id)]
    return [*records, open_set(tenant), f"{key_base}open", f"{base}rate", f"{key_base}rate"]


def order_keys(ticket: Ticket) -> list[str]:
    """Of send.lua."""
    tenant, key_id = ticket.caller.tenant.name, ticket.caller.key.id
    return [ticket_record(tenant, ticket.id), open_set(tenant), f"{_base_of_key(tenant, key_id)}open"]


def _base_of_key(tenant: str, key_id: str) -> str:
    return f"{base_of(tenant)}key:{key_id}:"
