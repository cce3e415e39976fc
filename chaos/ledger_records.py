"""Records, sums and counters of the gateways' ledger."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec


class Share(msgspec.Struct, frozen=True):
    """One account in a ledger record."""

    upstream: str
    account: str
    delivered: int
    withheld: int
    lost: int
    unconfirmed: int

    @property
    def images(self) -> int:
        return self.delivered + self.withheld + self.lost + self.unconfirmed


class Line(msgspec.Struct, frozen=True):
    """One ledger record."""

    id: str
    time: str
    request_id: str
    tenant: str
    key_id: str
    model: str
    asked: int
    delivered: int
    withheld: int
    lost: int
    unconfirmed: int
    usd: str
    outcome: str
    calls: tuple[Share, ...]
    batch_id: str | None = None
    custom_id: str | None = None
    """Of a line of a batch, whose request ID is this one here."""
    tags: dict[str, str] = {}
    user: str | None = None

    @property
    def usd_micros(self) -> int:
        return int(Decimal(self.usd) * 1_000_000)

    @property
    def images(self) -> int:
        return self.delivered + self.withheld + self.lost + self.unconfirmed


SPLITS: Final = ("tag", "user", "upstream")
"""What usage is reported by, with sums of their own."""


@dataclass(slots=True)
class Sums:
    """A tenant's ledger sums of all days of the run."""

    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    usd_micros: int = 0
    requests: int = 0

    def add(self, line: Line) -> None:
        self.delivered, self.withheld = self.delivered + line.delivered, self.withheld + line.withheld
        self.lost, self.unconfirmed = self.lost + line.lost, self.unconfirmed + line.unconfirmed
        self.usd_micros, self.requests = self.usd_micros + line.usd_micros, self.requests + 1


@dataclass(frozen=True, slots=True)
class Counters:
    """A tenant's quota counters of a window, in Redis."""

    images: int
    usd_micros: int
