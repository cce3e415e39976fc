"""The cost of a request: reserved at admission, settled by the outcome of each image.

Every image ends as delivered, withheld, lost, unconfirmed or not generated. Money is integer micro-dollars.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from gateway.domain.errors import ERROR_SPECS, ErrorCode, ErrorSpec, Outcome
from gateway.domain.pricing import MadeImages, Price


@dataclass(frozen=True, slots=True)
class BillingRule:
    """Images that tenants are charged for besides delivered ones."""

    charges_withheld: bool = False
    """Images that the provider's safety check withheld."""
    charges_unconfirmed: bool = True
    """Images of unknown outcome: the provider may have billed them."""


class RequestOutcome(Enum):
    """The outcome of a request, as the ledger and the metrics name it."""

    DELIVERED = "delivered"
    """At least one image was delivered."""
    UNCONFIRMED = "unconfirmed"
    """No image was delivered, and whether any was generated is unknown."""
    LOST = "lost"
    """Generated but not retrievable, e.g. the result URL returned 404. Never charged to the tenant."""
    WITHHELD = "withheld"
    REFUSED = "refused"
    """The provider responded with an error: free."""
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class AccountOutcome:
    """Image counts of one request at one upstream account."""

    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    open: int = 0
    """Requested, without an outcome yet."""
    was_reached: bool = False
    """The account responded, or may have received a call."""

    def deliver(self, requested: int, delivered: int, withheld: int) -> None:
        """Records the response to a call for `requested` images. Those neither delivered nor withheld are lost."""
        self.open -= requested
        self.was_reached = True
        self.delivered += delivered
        self.withheld += withheld
        self.lost += requested - delivered - withheld

    def fail(self, requested: int, row: ErrorSpec) -> bool:
        """Records a failed call. Returns whether it is known to be free."""
        self.open -= requested
        self.was_reached = self.was_reached or row.outcome is not Outcome.NOT_SENT
        if row.withholds_images:
            self.withheld += requested
        elif row.outcome is Outcome.UNKNOWN:
            self.unconfirmed += requested
        return row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and not row.withholds_images


@dataclass(slots=True)
class OpenCall:
    """One upstream call, from its record in the reservation to its outcome.

    On exit without an outcome, a call that was not sent is free; one that was sent stays open.
    """

    share: AccountOutcome = field(default_factory=AccountOutcome)
    images: int = 0
    sent_s: float | None = None
    """Monotonic time of the first byte written."""
    is_free: bool = False
    """Known to have cost nothing."""
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
    """Image outcomes of a running request, by (upstream, account)."""

    shares: dict[tuple[str, str], AccountOutcome] = field(default_factory=dict)

    def open(self, upstream: str, account: str, images: int) -> AccountOutcome:
        """Records that images are requested from an account."""
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
        """The most significant outcome among the request's images."""
        by_weight = (RequestOutcome.DELIVERED, RequestOutcome.UNCONFIRMED, RequestOutcome.LOST, RequestOutcome.WITHHELD)
        outcome = next((outcome for outcome in by_weight if self.total(outcome.value)), None)
        return outcome or (RequestOutcome.REFUSED if self.reached_upstream else RequestOutcome.NOT_SENT)


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """The reservation that a request needs, and the tenant and key that it counts against."""

    request_id: str
    model: str
    images: int
    prices: tuple[Price, ...]
    """Past, current and scheduled prices of the model."""

    def costs(self) -> str:
        """Renders the cost under each price for admit.lua: "SINCE:USD_MICROS" joined by commas."""
        return ",".join(f"{price.since_s}:{price.rate.cost(MadeImages(self.images))}" for price in self.prices)


@dataclass(frozen=True, slots=True)
class Timings:
    """Time that a request spent in each phase; milliseconds."""

    queue_ms: int = 0
    upstream_ms: int = 0
    total_ms: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's current counters. Images and money include reservations."""

    requests_last_minute: int
    images_last_minute: int
    concurrency: int
    images_today: int
    images_this_month: int
    usd_micros_this_month: int
    open_requests: int
    """Admitted and not settled, including requests of dead processes."""


def usd(micros: int) -> str:
    """Renders micro-dollars as an exact decimal: two decimals, or more if needed."""
    sign, whole, fraction = "-" * (micros < 0), *divmod(abs(micros), 1_000_000)
    digits = f"{fraction:06}".rstrip("0")
    return f"{sign}{whole}.{digits:0<2}"


def usd_micros(text: str) -> int:
    """Parses dollars with up to six decimals into micro-dollars, exactly."""
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000 + int(f"{fraction:0<6}")
