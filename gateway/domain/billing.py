"""The cost of a request: reserved at admission, settled by the outcome of each image.

Every image ends as delivered, withheld, lost, unconfirmed or not made. Money is integer micro-dollars.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from gateway.domain.errors import ERROR_SPECS, ErrorCode, ErrorSpec, Outcome
from gateway.domain.pricing import MadeImages, Price


@dataclass(frozen=True, slots=True)
class BillingRule:
    """Images that the operator charges besides delivered ones."""

    charges_withheld: bool = False
    """Images that the provider's safety check withheld."""
    charges_unconfirmed: bool = True
    """Images of unknown outcome: the provider may have billed them."""


class RequestOutcome(Enum):
    """How a request ended, as the ledger and the metrics name it."""

    DELIVERED = "delivered"
    """At least one picture."""
    UNCONFIRMED = "unconfirmed"
    """No picture, and not known whether some were made."""
    LOST = "lost"
    """Generated but not retrievable, e.g. the result URL returned 404. Never charged to the tenant."""
    WITHHELD = "withheld"
    REFUSED = "refused"
    """The provider replied that it failed: free."""
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class AccountOutcome:
    """One upstream account's part in a request, in images."""

    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    open: int = 0
    """Ordered, with no outcome yet."""
    was_reached: bool = False
    """The account replied, or may have received a call."""

    def deliver(self, ordered: int, delivered: int, withheld: int) -> None:
        """Records a reply to a call for `ordered` images. What was neither delivered nor withheld is lost."""
        self.open -= ordered
        self.was_reached = True
        self.delivered += delivered
        self.withheld += withheld
        self.lost += ordered - delivered - withheld

    def fail(self, ordered: int, row: ErrorSpec) -> bool:
        """Records a failed call. Returns whether it is known to be free."""
        self.open -= ordered
        self.was_reached = self.was_reached or row.outcome is not Outcome.NOT_SENT
        if row.withholds_images:
            self.withheld += ordered
        elif row.outcome is Outcome.UNKNOWN:
            self.unconfirmed += ordered
        return row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and not row.withholds_images


@dataclass(slots=True)
class OpenCall:
    """One order in a share, from its note in the ticket to its outcome.

    If it is left without an outcome, an order that was not sent is taken back; one that was sent stays open.
    """

    share: AccountOutcome = field(default_factory=AccountOutcome)
    images: int = 0
    sent_s: float | None = None
    """Monotonic; when its first byte was written."""
    is_free: bool = False
    """It is known to have cost nothing."""
    has_ended: bool = False

    def deliver(self, delivered: int, withheld: int) -> None:
        self.has_ended = True
        self.share.deliver(self.images, delivered, withheld)

    def fail(self, row: ErrorSpec) -> None:
        self.has_ended = True
        self.is_free = self.share.fail(self.images, row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.sent_s is None and not self.has_ended:
            self.fail(ERROR_SPECS[ErrorCode.NOT_SENT])


@dataclass(slots=True)
class ImageOutcomes:
    """What becomes of a request's images, kept while it runs, by (upstream, account)."""

    shares: dict[tuple[str, str], AccountOutcome] = field(default_factory=dict)

    def open(self, upstream: str, account: str, images: int) -> AccountOutcome:
        """Records that images are ordered from an account."""
        share = self.shares.setdefault((upstream, account), AccountOutcome())
        share.open += images
        return share

    def close(self) -> None:
        """Records the end of the request: images without an outcome are unconfirmed."""
        for share in self.shares.values():
            share.was_reached = share.was_reached or share.open > 0
            share.unconfirmed += share.open
            share.open = 0

    def total(self, name: str) -> int:
        return sum(int(getattr(share, name)) for share in self.shares.values())

    @property
    def reached_upstream(self) -> bool:
        return any(share.was_reached for share in self.shares.values())

    @property
    def settlement(self) -> RequestOutcome:
        """The outcome of the request: the most significant one of its images."""
        by_weight = (RequestOutcome.DELIVERED, RequestOutcome.UNCONFIRMED, RequestOutcome.LOST, RequestOutcome.WITHHELD)
        found = next((outcome for outcome in by_weight if self.total(outcome.value)), None)
        return found or (RequestOutcome.REFUSED if self.reached_upstream else RequestOutcome.NOT_SENT)


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """A request for admission."""

    request_id: str
    model: str
    images: int
    prices: tuple[Price, ...]
    """Every price that the model has had and will have."""

    def costs(self) -> str:
        """What is reserved under each price, as admit.lua reads it: "SINCE:USD_MICROS" joined by commas."""
        return ",".join(f"{price.since_s}:{price.rate.cost(MadeImages(self.images))}" for price in self.prices)


@dataclass(frozen=True, slots=True)
class Timings:
    """The time that a request spent, by phase; milliseconds."""

    queue_ms: int = 0
    upstream_ms: int = 0
    total_ms: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's current counters; images and money include reservations."""

    requests_last_minute: int
    images_last_minute: int
    concurrency: int
    images_today: int
    images_this_month: int
    usd_micros_this_month: int
    open_requests: int
    """Admitted and not settled, including those of dead processes."""


def usd(micros: int) -> str:
    """Micro-dollars as a decimal, exact: two digits behind the point, more where they are needed."""
    sign, whole, rest = "-" * (micros < 0), *divmod(abs(micros), 1_000_000)
    digits = f"{rest:06}".rstrip("0")
    return f"{sign}{whole}.{digits:0<2}"


def usd_micros(text: str) -> int:
    """A decimal in dollars, with up to six decimals, as micro-dollars, exact."""
    whole, _, rest = text.partition(".")
    return int(whole) * 1_000_000 + int(f"{rest:0<6}")
