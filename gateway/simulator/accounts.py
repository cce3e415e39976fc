"""The accounts: who may ask how often, and what each one owes.

An image is billed once, when its request is accepted; whatever happens to the answer does not change the bill.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypedDict

from gateway.simulator.faults import RATE_LIMITED, RefusedError

WINDOW_S: Final = 60.0
ORDERS_REMEMBERED: Final = 10_000
RECEIPTS_KEPT: Final = 200_000


class Bill(TypedDict):
    """One account's line of the invoice."""

    requests: int
    images: int
    withheld: int
    refusals: dict[str, int]
    peak_concurrency: int


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

    name: str = ""
    requests: int = 0
    images: int = 0
    withheld: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    peak_concurrency: int = 0
    in_flight: int = 0
    accepted_at: deque[float] = field(default_factory=deque)
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
        )


class Accounts:
    """All accounts seen since the last reset."""

    def __init__(self, *, requests_per_minute: int, clock: Callable[[], float]) -> None:
        self._requests_per_minute = requests_per_minute
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self.receipts: deque[Receipt] = deque(maxlen=RECEIPTS_KEPT)
        """What was billed, order by order, for whoever wants to compare it with a ledger."""

    def open(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account(name))

    def charge(self, account: Account, prompt: str, made: int, withheld: int) -> None:
        """Put an accepted order on the account's bill."""
        account.charge(made, withheld)
        self.receipts.append(
            Receipt(account=account.name, prompt=prompt, images=made, withheld=withheld, at=self._clock())
        )

    def admit(self, account: Account) -> None:
        """Let a request into the account's sliding window; a refused one takes no place in it.

        Raises: RefusedError 1002.
        """
        now = self._clock()
        while account.accepted_at and account.accepted_at[0] <= now - WINDOW_S:
            account.accepted_at.popleft()
        if len(account.accepted_at) >= self._requests_per_minute:
            raise RefusedError(RATE_LIMITED)
        account.accepted_at.append(now)

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
