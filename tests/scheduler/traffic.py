"""Tenants that ask one pool for minutes of a test's clock: what each was sent, when, and after which wait."""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import ClockedPool

_BEAT_S: Final = 1.0
_SOON_S: Final = 0.002
_GRANTS: Final = "ig3:{pool:sim}:grants"


@dataclass(frozen=True, slots=True)
class Tenant:
    """How one asks."""

    name: str
    images: int = 1
    weight: int = 1
    priority: str = "i"
    call_s: float = 8.0
    spread: float = 0.3
    """Of the lengths of its calls, as a part of `call_s`."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One call."""

    at_s: float
    """Since the beginning, as all moments here."""
    tenant: Tenant
    account: str
    waited_s: float
    length_s: float = 0.0

    def held_s(self, from_s: float, until_s: float) -> float:
        """For which it held its account's concurrency in this time."""
        return max(0.0, min(until_s, self.at_s + self.length_s) - max(from_s, self.at_s))


class Traffic:
    """Grants are taken at once, as if by a message."""

    def __init__(self, pool: ClockedPool, seed: int, accounts: int, limits: AccountLimits, **terms: float) -> None:
        self.sent: list[Sent] = []
        self.random = random.Random(seed)
        self._pool = pool
        self._began_s = pool.clock.now_s
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: dict[str, tuple[Tenant, float]] = {}
        self._floods: set[Tenant] = set()
        self._clients: set[Tenant] = set()
        pool.declare({f"a{at:02}": limits for at in range(accounts)}, **{"paced": 50} | terms)
        self._after(_BEAT_S, self._beat)

    @property
    def now_s(self) -> float:
        return self._pool.clock.now_s - self._began_s

    def flood(self, tenant: Tenant, waiting: int) -> None:
        """Ask for so many now, and for another when one is served."""
        self._floods.add(tenant)
        for _ in range(waiting):
            self.ask(tenant)

    def use(self, tenant: Tenant, clients: int) -> None:
        """Ask by so many clients, each of which asks again when its call has ended."""
        self._clients.add(tenant)
        for _ in range(clients):
            self.ask(tenant)

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        self._after(when_s - self.now_s, act)

    def now_and_then(self, tenant: Tenant, shortest_s: float, longest_s: float) -> None:
        """Ask for one after each such pause."""

        def again() -> None:
            self.ask(tenant)
            self._after(self.random.uniform(shortest_s, longest_s), again)

        self._after(self.random.uniform(shortest_s, longest_s), again)

    def ask(self, tenant: Tenant) -> None:
        lease_id = f"r{next(self._numbers)}"
        found = self._pool.lease(
            lease_id,
            tenant.name,
            tenant.images,
            patience_s=100_000.0,
            weight=tenant.weight,
            priority=tenant.priority,
        )
        if found["decision"] == "leased":
            self._begin(lease_id, tenant, self.now_s)
        else:
            assert "wait" == found["decision"], found
            self._waiting[lease_id] = tenant, self.now_s
        self._take_grants()

    def run(self, until_s: float) -> "Traffic":
        while self._events[0][0] <= until_s:
            at_s, _, act = heapq.heappop(self._events)
            if at_s > self.now_s:
                self._pool.clock.set(self._began_s + at_s)
            act()
        return self

    def waits(self, tenant: Tenant) -> list[float]:
        """Of those who were served, and of those who still wait."""
        left = [self.now_s - asked_s for one, asked_s in self._waiting.values() if one == tenant]
        return sorted([one.waited_s for one in self.sent if one.tenant == tenant] + left)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._numbers), act))

    def _begin(self, lease_id: str, tenant: Tenant, asked_s: float) -> None:
        account = str(self._pool.leases[lease_id]["account"])
        length_s = tenant.call_s * self.random.uniform(1 - tenant.spread, 1 + tenant.spread)
        self.sent.append(Sent(self.now_s, tenant, account, self.now_s - asked_s, length_s))
        self._after(length_s, lambda: self._end(lease_id, tenant))

    def _end(self, lease_id: str, tenant: Tenant) -> None:
        self._pool.release(lease_id)
        if tenant in self._clients:
            self.ask(tenant)
        self._take_grants()

    def _beat(self) -> None:
        next_us = self._pool.turn(*itertools.islice(self._waiting, 1))["next_us"]
        self._after(min(_BEAT_S, next_us / 1e6 + _SOON_S) if next_us >= 0 else _BEAT_S, self._beat)
        self._take_grants()

    def _take_grants(self) -> None:
        for lease_id in self._pool.client.hkeys(_GRANTS):
            if lease_id not in self._waiting:
                continue
            tenant, asked_s = self._waiting.pop(lease_id)
            assert "leased" == self._pool.claim(lease_id)["decision"]
            self._begin(lease_id, tenant, asked_s)
            if tenant in self._floods:
                self.ask(tenant)


def most_in_a_minute(sent: Iterable[Sent], count: Callable[[Sent], int] = lambda _: 1) -> int:
    """Of any account, in any 60 s."""
    by_account: defaultdict[str, list[Sent]] = defaultdict(list)
    most = 0
    for one in sent:
        recent = [other for other in by_account[one.account] if other.at_s > one.at_s - 60]
        by_account[one.account] = [*recent, one]
        most = max(most, sum(count(other) for other in by_account[one.account]))
    return most


def percentile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]
