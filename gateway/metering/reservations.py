"""Reservations: the state of a request from admission to settlement."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

import msgspec
import structlog

from gateway.domain.billing import AdmissionRequest, BillingRule, ImageOutcomes, OpenCall, OrderIdentity, Timings
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.pricing import Basis
from gateway.domain.tenants import Principal, Rates
from gateway.domain.usage import TenantDay
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import day_number, write_attribution, write_calls
from gateway.observability.metrics import Metrics
from gateway.redis import Script, Value
from gateway.redis.journal_file import Entry

_LOG = structlog.get_logger("imagegate.admission")
_SKEW_S: Final = 3600
"""Maximum skew between this machine's clock and the server's."""
_EVENTS: Final = ("tenants/streams", "metering/events")
PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "admit": ("metering/windows", *_EVENTS, "metering/repeats", "metering/statuses"),
        "settle": (*_EVENTS, "metering/split_sums"),
        "credit": ("metering/windows", *_EVENTS),
    }
)
"""By script, the files that stand before it."""
SETTLE: Final = "settle"
"""Journal kind."""
journal_key = f"{SETTLE} {{}}".format
"""Returns the journal key of a reservation ID."""


def redis_keys(prefix: str, tenant: str, *names: str) -> list[str]:
    """Returns Redis keys of a tenant."""
    return [f"{prefix}:{{{tenant}}}:{name}" for name in names]


@dataclass(frozen=True, slots=True)
class RepeatPolicy:
    """How long orders are remembered for repeated requests."""

    channel: str = ""
    """On which this process is asked to store the outcome of an order."""
    unknown_s: float = 0.0
    """For identical requests after an unknown outcome; 0 does not remember it."""
    keyed_s: float = 86_400.0
    """For requests with the same Idempotency-Key."""
    keys_max: int = 10_000
    """Limit on the new idempotency keys of a tenant in `keyed_s`."""

    def describe(self, identity: OrderIdentity | None) -> bytes:
        """Renders an identity as JSON for admit.lua."""
        if identity is None:
            return b""
        terms = {"unknown_ms": round(self.unknown_s * 1000), "keyed_ms": round(self.keyed_s * 1000)}
        own = {"kind": identity.kind, "name": identity.name, "fingerprint": identity.fingerprint}
        return msgspec.json.encode(own | terms | {"channel": self.channel, "keys_max": self.keys_max})


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
    repeats: RepeatPolicy = RepeatPolicy()
    calendar: Calendar = UTC_CALENDAR
    """Of quotas and of the ledger's days."""
    alert_percents: tuple[int, ...] = ()
    """Of a quota, ascending: where an event is appended, unless the tenant has its own."""

    def describe(self, purchase: AdmissionRequest, now_s: float) -> tuple[bytes, bytes, str, bytes]:
        """Renders identity, batch line, offsets of the calendar and attribution for admit.lua."""
        batch, attribution = msgspec.json.encode(purchase.batch), write_attribution(purchase.attribution)
        return self.repeats.describe(purchase.identity), batch, self.calendar.offsets(now_s), attribution

    def settle_args(self, outcome: bytes, now_s: float) -> list[Value]:
        """Returns the arguments of settle.lua."""
        today, percents = self.calendar.day(now_s), msgspec.json.encode(self.alert_percents)
        return [outcome, self.ledger_days, percents, day_number(today), self.calendar.end_s(today)]


@dataclass(slots=True)
class Reservation:
    """The right to order images at a price, until it is settled."""

    id: str
    caller: Principal
    purchase: AdmissionRequest
    record_order: Script = field(repr=False)
    """lua/mark_sent.lua."""
    lease_ms: int
    prefix: str
    """Of Redis keys."""
    rates: Rates = field(default_factory=Rates)
    price_since_s: int = 0
    """Unix second from which the reserved price is valid; set by the admission."""
    tally: ImageOutcomes = field(default_factory=ImageOutcomes)
    spent: Timings = field(default_factory=Timings)
    """Set by its user before it ends."""
    ended_s: float = 0.0
    """Unix seconds; set when it ends."""
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
        names = (f"reservation:{self.id}", "open", f"key:{self.caller.key.id}:open")
        keys = redis_keys(self.prefix, self.caller.tenant.name, *names)
        if not await self.record_order(keys, [self.id, f"{upstream}/{account}", images, self.lease_ms]):
            raise GatewayError(ErrorCode.RESERVATION_EXPIRED, f"reservation {self.id} was already settled")
        return OpenCall(self.tally.open(upstream, account, images), images)

    async def revert_order(self, upstream: str, account: str, images: int) -> None:
        """Reverts an order that is known to be free. Redis: one round trip, lua/mark_sent.lua."""
        names = (f"reservation:{self.id}", "open", f"key:{self.caller.key.id}:open")
        keys = redis_keys(self.prefix, self.caller.tenant.name, *names)
        with suppress(GatewayError):  # it matters only if this process dies before it settles
            await self.record_order(keys, [self.id, f"{upstream}/{account}", -images, self.lease_ms])


class ReservationOutcome(msgspec.Struct, frozen=True):
    """How a request ended, from memory or from a journal: JSON for settle.lua."""

    reservation: str
    tenant: str
    key_id: str
    request_id: str
    images: int
    """Requested."""
    settlement: str
    was_sent: bool
    calls: str
    """Of each account, as `write_calls` renders them."""
    queue_ms: int
    upstream_ms: int
    total_ms: int
    ended_s: float
    """Unix seconds."""
    charges_withheld: bool
    charges_unconfirmed: bool
    price_basis: str = ""
    """A Basis's value; empty for ANSWER."""
    tasks: str = ""
    """IDs of its unfinished tasks, joined by " "."""

    @classmethod
    def of(cls, reservation: Reservation, rule: BillingRule) -> Self:
        """Describes a reservation whose outcomes are closed."""
        caller, purchase, spent, tally = reservation.caller, reservation.purchase, reservation.spent, reservation.tally
        calls = write_calls(tally.shares, purchase.images, purchase.cost_at(reservation.price_since_s))
        return cls(
            *(reservation.id, caller.tenant.name, caller.key.id, purchase.request_id, purchase.images),
            *(tally.settlement.value, tally.reached_upstream, calls),
            *(spent.queue_ms, spent.upstream_ms, spent.total_ms),
            reservation.ended_s,
            *(rule.charges_withheld, rule.charges_unconfirmed),
            "" if tally.basis is Basis.ANSWER else tally.basis.value,
            " ".join(tally.tasks),
        )

    def entry(self) -> Entry:
        return Entry(SETTLE, self.reservation, msgspec.Raw(msgspec.json.encode(self)))


class LateOutcome(msgspec.Struct, frozen=True):
    """How a task ended after its request: JSON for settle.lua. Images in none of the three lists were free."""

    task: str
    account: str
    """UPSTREAM/ACCOUNT."""
    images: int
    """Of the task."""
    delivered: int = 0
    """Kept for requests that repeat the order."""
    withheld: int = 0
    lost: int = 0


class Settled(msgspec.Struct, frozen=True):
    """The reply of settle.lua."""

    status: str
    outcome: str = ""
    model: str = ""
    usd_micros: int = 0
    has_events: bool = False

    @classmethod
    def read(cls, reply: object) -> Self:
        """Parses a reply. Raises: GatewayError INTERNAL."""
        try:
            return msgspec.json.decode(str(reply), type=cls, strict=False)  # Lua writes large amounts as 1e+14
        except msgspec.MsgspecError as error:
            raise GatewayError(ErrorCode.INTERNAL, f"settle.lua: {error}") from error

    def count(self, tenant: str, metrics: Metrics) -> None:
        """Counts what the settlement moved."""
        if self.status in {"settled", "corrected", "repeated"}:
            metrics.settlements.labels(self.status if self.status == "corrected" else self.outcome).inc()
            if self.usd_micros > 0:
                metrics.spend_usd.labels(self.model, tenant).inc(self.usd_micros / 1e6)


class LostSettlements:
    """Checks the ledger before a settlement counts as lost, because Redis drops settled reservations after a while."""

    def __init__(self, ledger: Ledger, calendar: Calendar) -> None:
        self._ledger = ledger
        self._calendar = calendar
        self._suspects: dict[str, ReservationOutcome] = {}

    def suspect(self, outcome: ReservationOutcome) -> None:
        self._suspects[outcome.reservation] = outcome

    async def log(self) -> None:
        """Logs settlements that are not in the ledger. Raises: GatewayError REDIS_UNAVAILABLE; they remain suspects."""
        while self._suspects:
            tenant = next(iter(self._suspects.values())).tenant
            suspects = [outcome for outcome in self._suspects.values() if outcome.tenant == tenant]
            found = await self._recorded_calls(tenant, suspects)
            for outcome in suspects:
                self._suspects.pop(outcome.reservation, None)
                if found.get(outcome.reservation) != outcome.calls:
                    _LOG.error(
                        "settlement_lost",
                        tenant=tenant,
                        request_id=outcome.request_id,
                        images=outcome.images,
                        calls=outcome.calls,
                        hint="Redis does not know its reservation: check the ledger, which may have it, perhaps as "
                        "unconfirmed",
                    )

    async def _recorded_calls(self, tenant: str, suspects: list[ReservationOutcome]) -> dict[str, str]:
        """Returns the ledger's calls by reservation ID, since the first of one tenant's suspects ended."""
        since_ms = round((min(outcome.ended_s for outcome in suspects) - _SKEW_S) * 1000)
        admitted = [outcome.ended_s - outcome.total_ms / 1000 for outcome in suspects]
        # A record's day is the admission's, by the server's clock.
        days = {self._calendar.day(moment_s + skew_s) for moment_s in admitted for skew_s in (-_SKEW_S, _SKEW_S)}
        wanted, found = {outcome.reservation for outcome in suspects}, dict[str, str]()
        for day in days:
            async for entries in self._ledger.stream(TenantDay(day, tenant), f"{since_ms}-0"):
                records = (fields for _, fields in entries if fields["reservation"] in wanted)
                found |= {fields["reservation"]: fields["calls"] for fields in records}
        return found
