"""The cost of a request: reserved at admission, settled by the outcome of each image.

Every image ends as delivered, withheld, lost, unconfirmed or not generated. Money is integer micro-dollars. A request
reserves the highest possible cost and settles the actual one.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum

from gateway.domain.attribution import Attribution
from gateway.domain.errors import ErrorCode, ErrorSpec, Outcome
from gateway.domain.pricing import Basis, Bill, Micros, Offer, highest_cost

CUSTOM_ID_CHARS = 512
"""Limit on the `custom_id` of a batch line, which ledger records hold."""
_MILLION = 1_000_000


class Repetition(Enum):
    """What a request says of itself as a repetition. An order of KEYED, FIRST and RETRY can be joined."""

    KEYED = "keyed"  # it has an Idempotency-Key: the same as every request with that key
    FIRST = "first"  # an SDK's first attempt, which its retries may join
    RETRY = "retry"  # an SDK's further attempt
    PLAIN = "plain"
    LINE = "line"  # a line of a batch, which is bought once, whichever processes run it


@dataclass(frozen=True, slots=True)
class OrderIdentity:
    """How a repeated request is recognised, so that it joins its order and buys nothing."""

    kind: Repetition
    name: str  # of the idempotency key, or of the API key and the request: a keyed hash
    fingerprint: str  # of the request: a keyed hash


@dataclass(frozen=True, slots=True)
class BatchLine:
    """The line of a batch that a request is made for."""

    batch_id: str
    custom_id: str  # at most CUSTOM_ID_CHARS
    claim: str = ""  # see jobs/lua/claim_lines.lua: the line is admitted while it is valid


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """The reservation that a request needs."""

    request_id: str
    model: str
    images: int
    offers: tuple[Offer, ...]  # of every target that may serve it
    identity: OrderIdentity | None = None
    batch: BatchLine | None = None
    attribution: Attribution = field(default_factory=Attribution)

    def cost_at(self, since_s: int) -> int:
        """Returns the highest cost in micro-dollars by the prices of this Unix second."""
        return highest_cost(self.offers, since_s)

    def costs(self) -> str:
        """Renders the highest costs by time for admit.lua: "SINCE:USD_MICROS" joined by commas."""
        moments = {price.since_s for offer in self.offers for price in offer.prices}
        return ",".join(f"{since_s}:{self.cost_at(since_s)}" for since_s in sorted(moments))


@dataclass(frozen=True, slots=True)
class BillingRule:
    """Images that tenants are charged for besides delivered ones."""

    charges_withheld: bool = False  # images that the provider's safety check withheld
    charges_unconfirmed: bool = True  # images of unknown outcome: the provider may have billed them


class RequestOutcome(Enum):
    """The outcome of a request, as the ledger and the metrics name it."""

    DELIVERED = "delivered"  # at least one image was delivered
    UNCONFIRMED = "unconfirmed"  # no image was delivered, and whether any was generated is unknown
    LOST = "lost"
    """Generated but not retrievable, e.g. the result URL returned 404. Never charged to the tenant."""
    WITHHELD = "withheld"
    REFUSED = "refused"  # the provider responded with an error: free
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class AccountOutcome:
    """Image counts of one request at one upstream account."""

    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    open: int = 0  # requested, without an outcome yet
    was_reached: bool = False  # the account responded, or may have received a call
    charge: Micros | None = None  # for the delivered images; None: their share of the reserved cost
    cost: Micros | None = 0  # what the provider took; None if that is not known of every call
    basis: Basis = Basis.ANSWER

    def deliver(self, requested: int, delivered: int, withheld: int, bill: Bill | None = None) -> None:
        """Records the response to a call for `requested` images. Those neither delivered nor withheld are lost."""
        if bill:
            self.charge = (self.charge or 0) + bill.charge
            self.basis = bill.basis if delivered and bill.basis is not Basis.ANSWER else self.basis
        taken = bill.cost if bill else None
        self.cost = None if self.cost is None or taken is None else self.cost + taken
        self.open -= requested
        self.was_reached = True
        self.delivered += delivered
        self.withheld += withheld
        self.lost += requested - delivered - withheld

    @property
    def images(self) -> int:
        """Returns the number of images that were made, or may have been."""
        return self.delivered + self.withheld + self.lost + self.unconfirmed

    def fail(self, requested: int, row: ErrorSpec) -> bool:
        """Records a failed call. Returns whether it is known to be free."""
        self.open -= requested
        self.was_reached = self.was_reached or row.outcome is not Outcome.NOT_SENT
        if row.withholds_images or row.outcome is Outcome.UNKNOWN:
            self.cost = None
        if row.withholds_images:
            self.withheld += requested
        elif row.outcome is Outcome.UNKNOWN:
            self.unconfirmed += requested
        return row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and not row.withholds_images


@dataclass(slots=True)
class OpenCall(AbstractContextManager["OpenCall"]):
    """One upstream call, from its record in the reservation to its outcome.

    On exit, a call that was not sent is free; one that was sent and has no outcome stays open.
    """

    share: AccountOutcome = field(default_factory=AccountOutcome)
    images: int = 0
    sent_s: float | None = None
    """Monotonic time of the first byte written. Until then it can only fail as not sent."""
    is_free: bool = False  # known to have cost nothing

    def fail(self, row: ErrorSpec) -> None:
        self.is_free = self.share.fail(self.images, row)

    def __exit__(self, *error: object) -> None:
        if self.sent_s is None and not self.is_free:
            self.fail(ErrorCode.NOT_SENT.spec)


@dataclass(slots=True)
class ImageOutcomes:
    """Image outcomes of a request, by (upstream, account)."""

    shares: dict[tuple[str, str], AccountOutcome] = field(default_factory=dict)
    settlement: RequestOutcome = RequestOutcome.NOT_SENT
    """The most significant outcome among the request's images; set by `close`."""
    reached_upstream: bool = False  # set by `close`
    tasks: list[str] = field(default_factory=list)
    """IDs of tasks whose images are unconfirmed because they went on."""

    def open(self, upstream: str, account: str, images: int) -> AccountOutcome:
        """Records that images are requested from an account."""
        share = self.shares.setdefault((upstream, account), AccountOutcome())
        share.open += images
        return share

    def close(self) -> None:
        """Records the end of the request: images without an outcome are unconfirmed."""
        for share in self.shares.values():
            share.was_reached = share.was_reached or share.open > 0
            share.cost = None if share.open else share.cost
            share.unconfirmed += share.open
            share.open = 0
        self.reached_upstream = any(share.was_reached for share in self.shares.values())
        by_weight = (RequestOutcome.DELIVERED, RequestOutcome.UNCONFIRMED, RequestOutcome.LOST, RequestOutcome.WITHHELD)
        without_images = RequestOutcome.REFUSED if self.reached_upstream else RequestOutcome.NOT_SENT
        self.settlement = next((outcome for outcome in by_weight if self.total(outcome.value)), without_images)

    @property
    def basis(self) -> Basis:
        """Of the charge: ANSWER only if it is that of every account."""
        others = (share.basis for share in self.shares.values() if share.basis is not Basis.ANSWER)
        return next(others, Basis.ANSWER)

    def total(self, name: str) -> int:
        return sum(int(getattr(share, name)) for share in self.shares.values())


@dataclass(frozen=True, slots=True)
class Timings:
    """Time that a request spent in each phase; milliseconds."""

    queue_ms: int = 0
    upstream_ms: int = 0
    total_ms: int = 0


def usd(micros: int) -> str:
    """Renders micro-dollars as an exact decimal: two decimals, or more if needed."""
    sign, whole, fraction = "-" * (micros < 0), *divmod(abs(micros), _MILLION)
    digits = f"{fraction:06}".rstrip("0")
    return f"{sign}{whole}.{digits:0<2}"


def usd_micros(text: str) -> int:
    """Parses dollars with up to six decimals into micro-dollars, exactly."""
    whole, _, fraction = text.partition(".")
    return int(whole) * _MILLION + int(f"{fraction:0<6}")
