"""Tickets: what is kept of a request from its admission to its settlement, here and under which names in Redis."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from gateway.domain.billing import BillingRule, Durations, Purchase, Tally
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.rates import Rates
from gateway.domain.tenants import Caller
from gateway.stores import PREFIX

_LOG = structlog.get_logger("imagegate.admission")


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
    charged_usd_micros: int | None = None
    """None while it is not settled."""
    settled_s: float | None = None
    """When it was settled, monotonic; None while it is not."""
    is_lost: bool = False
    """Redis knows nothing of it."""


def tell_lost(ticket: Ticket) -> None:
    _LOG.error(
        "settlement_lost",
        tenant=ticket.caller.tenant.name,
        request_id=ticket.purchase.request_id,
        images=ticket.purchase.images,
        calls=calls_text(ticket.tally),
        remedy="Redis does not know its reservation: look in the ledger, which may have it, perhaps as unconfirmed",
    )


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


def base_of(tenant: str) -> str:
    return f"{PREFIX}:{{{tenant}}}:"


def ticket_record(tenant: str, ticket_id: str) -> str:
    return f"{base_of(tenant)}ticket:{ticket_id}"


def open_set(tenant: str) -> str:
    return f"{base_of(tenant)}open"
