"""Accounts: limits, usage and the invoice.

An image is billed once, when its request is accepted; a lost response does not change the invoice.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypedDict

from gateway.testing.simulator.fault_injection import RefusedError
from gateway.testing.simulator.limits import Gate, Limits

REQUESTS_REMEMBERED: Final = 10_000
RECEIPTS_KEPT: Final = 200_000


class Bill(TypedDict):
    """One account's line of the invoice."""

    requests: int
    images: int
    withheld: int
    refusals: dict[str, int]
    peak_concurrency: int
    peak_per_minute: int
    """Most requests accepted in any 60 seconds."""


class Receipt(TypedDict):
    """One accepted request, as billed."""

    account: str
    prompt: str
    images: int
    withheld: int
    at: float
    """Seconds of the simulator's clock."""


class Invoice(TypedDict):
    """All accounts, with totals of requests and images."""

    accounts: dict[str, Bill]
    total: dict[str, int]


@dataclass(slots=True)
class Account:
    """Counters of one account."""

    name: str
    gate: Gate
    requests: int = 0
    images: int = 0
    withheld: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    peak_concurrency: int = 0
    in_flight: int = 0
    orders: Counter[str] = field(default_factory=Counter)

    def charge(self, made: int, withheld: int) -> None:
        self.images += made
        self.withheld += withheld

    def take(self, digest: str) -> int:
        """Returns how often the account has sent the same request: the response to a repeated one differs."""
        if len(self.orders) >= REQUESTS_REMEMBERED:
            self.orders.clear()
        self.orders[digest] += 1
        return self.orders[digest] - 1

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it runs, and its refusal if it ends so."""
        self.requests += 1
        self.in_flight += 1
        self.peak_concurrency = max(self.peak_concurrency, self.in_flight)
        try:
            yield
        except RefusedError as refusal:
            self.refusals[str(refusal.code)] = self.refusals.get(str(refusal.code), 0) + 1
            raise
        finally:
            self.in_flight -= 1

    def bill(self) -> Bill:
        return Bill(
            requests=self.requests,
            images=self.images,
            withheld=self.withheld,
            refusals=dict(sorted(self.refusals.items())),
            peak_concurrency=self.peak_concurrency,
            peak_per_minute=self.gate.peak_per_minute,
        )


class Accounts:
    """All accounts since the last reset."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self.receipts: deque[Receipt] = deque(maxlen=RECEIPTS_KEPT)
        """Billed requests, for comparison with a ledger."""

    def open(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account(name, Gate(self._limits)))

    def charge(self, account: Account, prompt: str, made: int, withheld: int) -> None:
        """Bills an accepted request to the account."""
        account.charge(made, withheld)
        self.receipts.append(
            Receipt(account=account.name, prompt=prompt, images=made, withheld=withheld, at=self._clock())
        )

    def admit(self, account: Account, images: int) -> None:
        """Admits a running request within the account's limits.

        Raises: RefusedError 1041, 1002.
        """
        account.gate.admit(self._clock(), images=images, in_flight=account.in_flight)

    def invoice(self) -> Invoice:
        bills = {name: account.bill() for name, account in sorted(self._accounts.items())}
        total = {
            "requests": sum(bill["requests"] for bill in bills.values()),
            "images": sum(bill["images"] for bill in bills.values()),
        }
        return Invoice(accounts=bills, total=total)

    def reset(self) -> None:
        """Drops every account; a request in flight ends in its former account."""
        self._accounts.clear()
        self.receipts.clear()


def account_of(key: str) -> str:
    """Returns the part before the last dash, so that design-1 and design-2 are keys of one account."""
    return key.rpartition("-")[0] or key
