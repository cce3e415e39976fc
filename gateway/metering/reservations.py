"""Reservations: the state of a request from admission to settlement, and its Redis keys."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import msgspec

from gateway.domain.billing import AdmissionRequest, BillingRule, ImageOutcomes, OpenCall, Timings
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal, Rates
from gateway.redis import Value
from gateway.redis.journal_file import Entry

SETTLE: Final = "settle"
"""Journal kind."""


class ReservationKeys(NamedTuple):
    """The Redis keys of one reservation, in the order of admit.lua."""

    tenant: str
    keys: str
    reservation: str
    open: str
    key_open: str
    rate: str
    key_rate: str

    @classmethod
    def of(cls, prefix: str, tenant: str, key_id: str = "", reservation_id: str = "") -> Self:
        base = f"{prefix}:{{{tenant}}}:"
        key_base = f"{base}key:{key_id}:"
        records = (f"{base}tenant", f"{base}keys", f"{base}reservation:{reservation_id}")
        return cls(*records, f"{base}open", f"{key_base}open", f"{base}rate", f"{key_base}rate")


@dataclass(frozen=True, slots=True)
class ReservationConfig:
    """Operator settings for reservations and billing."""

    rule: BillingRule
    lease_s: float
    """Without a heartbeat for this long, another process settles the reservation."""
    ledger_days: int
    """Retention of detailed records, in days."""
    recent_max: int = 100_000
    """Limit on settled reservations that Redis remembers per tenant."""
    records_max: int = 1_000_000
    """Limit on the records of one tenant day."""


class Settled(msgspec.Struct, frozen=True):
    """The reply of settle.lua."""

    status: str
    outcome: str = ""
    model: str = ""
    usd_micros: int = 0


@dataclass(slots=True)
class Reservation:
    """The right to order images at a price, until it is settled."""

    id: str
    caller: Principal
    purchase: AdmissionRequest
    durations: Callable[[], Timings]
    record_order: Callable[["Reservation", str, str, int], Awaitable[bool]] = field(repr=False)
    """Records ordered images of an account in Redis. Returns False if the reservation was already settled."""
    rates: Rates = field(default_factory=Rates)
    tally: ImageOutcomes = field(default_factory=ImageOutcomes)
    spent: Timings = field(default_factory=Timings)
    """Set by `end`."""
    ended_s: float = 0.0
    """Unix seconds; set by `end`."""
    charged_usd_micros: int | None = None
    """None until it is settled."""
    settled_s: float | None = None
    """Monotonic; None until it is settled."""
    is_lost: bool = False
    """Redis does not know the reservation."""

    async def mark_sent(self, upstream: str, account: str, images: int) -> OpenCall:
        """Records, before the first byte is sent, that images are ordered from an account.

        Returns: the order, which records its outcome.
        Raises: GatewayError RESERVATION_EXPIRED, REDIS_UNAVAILABLE; the call must then not be sent.
        Redis: one round trip, lua/mark_sent.lua.
        """
        if not await self.record_order(self, upstream, account, images):
            raise GatewayError(ErrorCode.RESERVATION_EXPIRED, f"reservation {self.id} was already settled")
        return OpenCall(self.tally.open(upstream, account, images), images)

    async def revert_order(self, upstream: str, account: str, images: int) -> None:
        """Reverts an order that is known to be free. Redis: one round trip, lua/mark_sent.lua."""
        with suppress(GatewayError):  # it matters only if this process dies before it settles
            await self.record_order(self, upstream, account, -images)

    def end(self, now_s: float) -> None:
        """Closes the outcomes at `now_s`, Unix time, and drops the reference to the request."""
        self.tally.close()
        self.spent, self.durations = self.durations(), Timings
        self.ended_s = now_s


class ReservationOutcome(msgspec.Struct, frozen=True):
    """How a request ended: the arguments of settle.lua, from memory or from a journal."""

    reservation: str
    tenant: str
    key_id: str
    request_id: str
    images: int
    """Requested."""
    settlement: str
    was_sent: bool
    calls: str
    """`UPSTREAM/ACCOUNT:DELIVERED,WITHHELD,LOST,UNCONFIRMED` of each account, joined by ";"."""
    queue_ms: int
    upstream_ms: int
    total_ms: int
    ended_s: float
    """Unix seconds."""
    charges_withheld: bool
    charges_unconfirmed: bool

    @classmethod
    def of(cls, reservation: Reservation, rule: BillingRule) -> Self:
        """Describes a reservation whose outcomes are closed."""
        spent, tally = reservation.spent, reservation.tally
        calls = ";".join(
            f"{upstream}/{account}:{share.delivered},{share.withheld},{share.lost},{share.unconfirmed}"
            for (upstream, account), share in sorted(tally.shares.items())
            if share.was_reached
        )
        return cls(
            reservation.id,
            reservation.caller.tenant.name,
            reservation.caller.key.id,
            reservation.purchase.request_id,
            reservation.purchase.images,
            tally.settlement.value,
            tally.reached_upstream,
            calls,
            *(spent.queue_ms, spent.upstream_ms, spent.total_ms),
            reservation.ended_s,
            rule.charges_withheld,
            rule.charges_unconfirmed,
        )

    def entry(self) -> Entry:
        """Returns its journal entry."""
        return Entry(SETTLE, self.reservation, msgspec.Raw(msgspec.json.encode(self)))

    def arguments(self, ledger_days: int) -> list[Value]:
        """Renders the arguments of settle.lua."""
        args: list[Value] = [
            self.reservation,
            0,
            int(self.charges_withheld),
            int(self.charges_unconfirmed),
            ledger_days,
        ]
        args += [self.settlement, int(self.was_sent), self.calls]
        return [*args, self.queue_ms, self.upstream_ms, self.total_ms, self.key_id]


def settlement_key(reservation_id: str) -> str:
    """Returns the journal key of a settlement."""
    return f"{SETTLE} {reservation_id}"
