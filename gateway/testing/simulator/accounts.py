"""The accounts: who may ask how often, and what each one owes.

An image is billed once, when its request is accepted; whatever happens to the answer does not change the bill.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypedDict

from gateway.testing.simulator.fault_injection import RefusedError
from gateway.testing.simulator.limits import Gate, Limits

ORDERS_REMEMBERED: Final = 10_000
RECEIPTS_KEPT: Final = 200_000


class Bill(TypedDict):
    """One account's line of the invoice."""

    requests: int
    images: int
    withheld: int
    refusals: dict[str, int]
    peak_concurrency: int
    peak_per_minute: int
    """The most requests accepted in any 60 seconds."""


class Receipt(TypedDict):
    """One accepted order, as it was billed."""

    account: str
    prompt: str
    images: int
    withheld: int
    at: float
    """Seconds of the simulator's own clock."""


class Invoice(TypedDict):
    """All accounts, and the sums of requests and images."""

    accounts: dict[str, Bill]
    total: dict[str, int]


@dataclass(slots=True)
class Account:
    """The counters of one account."""

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
        """How often this account has ordered the very same before: the answer to a repeated order differs."""
        if len(self.orders) >= ORDERS_REMEMBERED:
            self.orders.clear()
        self.orders[digest] += 1
        return self.orders[digest] - 1

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request for as long as it lasts, and its refusal if that is how it ends."""
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
    """All accounts seen since the last reset."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self.receipts: deque[Receipt] = deque(maxlen=RECEIPTS_KEPT)
        """What was billed, order by order, for whoever wants to compare it with a ledger."""

    def open(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account(name, Gate(self._limits)))

    def charge(self, account: Account, prompt: str, made: int, withheld: int) -> None:
        """Put an accepted order on the account's bill."""
        account.charge(made, withheld)
        self.receipts.append(
            Receipt(account=account.name, prompt=prompt, images=made, withheld=withheld, at=self._clock())
        )

    def admit(self, account: Account, images: int) -> None:
        """Let a request under way in, as the account's limits allow.

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
        """Forget every account; a request still in flight ends in the account that it began in."""
        self._accounts.clear()
        self.receipts.clear()


def account_of(key: str) -> str:
    """The part before the last dash, so that design-1 and design-2 are keys of one account."""
    return key.rpartition("-")[0] or key
