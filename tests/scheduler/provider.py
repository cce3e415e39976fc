"""What the provider of a history sees: the true moment of every call, on the test's own time line, and its limits.

The scripts see another clock, which jumps. Judged are the calls that were given after the last jump forward, or back by
more than a window: the pool knows nothing of those before. A call that was sent late, and of which Redis could not be
told within a minute, is not held against it either.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.accounts import AccountLimits

MINUTE_S: Final = 60.0
GRAIN_S: Final = 0.3
"""By so much later than it was sent a call may be counted."""
SKEW_S: Final = 2.0
"""By no more a clock that is set back goes unnoticed, as its last moment is noted each second."""
LATE_S: Final = 0.25
"""What need not be reported; the margin of a minute covers it."""


class WrongError(Exception):
    """The pool did what it must not."""


@dataclass(eq=False)
class Call:
    """A lease, and what becomes of it."""

    id: str
    account: str
    key: str
    fingerprint: str
    model: str
    images: int
    given_s: float
    counted_s: float
    is_granted: bool = False
    """It is not taken yet."""
    late_s: float = 0.0
    """It was sent so much later than it was leased, and Redis does not know."""
    sent_s: float = math.inf
    is_released: bool = False
    free_s: float = math.inf
    """It counts until then at the latest."""

    @property
    def member(self) -> str:
        return f"{self.account}/{self.key}"


@dataclass
class Provider:
    """Every account's calls."""

    margin_s: float
    accounts: dict[str, AccountLimits] = field(default_factory=dict)
    """As they are declared now."""
    counted: defaultdict[str, set[Call]] = field(default_factory=lambda: defaultdict(set))
    """By account: what the pool may count, at the most."""
    _limits: defaultdict[str, list[tuple[float, AccountLimits]]] = field(default_factory=lambda: defaultdict(list))
    _sent: defaultdict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    _flying: defaultdict[str, set[Call]] = field(default_factory=lambda: defaultdict(set))
    _forgotten_s: float = -math.inf
    is_set_back: bool = False

    def declare(self, accounts: Mapping[str, AccountLimits], now_s: float) -> None:
        for name, limits in accounts.items():
            if self.accounts.get(name) != limits:
                self._limits[name].append((now_s, limits))
        self.accounts = dict(accounts)

    def jump(self, seconds: float, now_s: float) -> None:
        """The clock of the scripts is set."""
        if seconds > 0 or seconds < -MINUTE_S - self.margin_s:
            self._forgotten_s = now_s
        self.is_set_back = seconds < 0
        self.recount(now_s)

    def look_after(self, now_s: float) -> None:
        """A script drops what counts no more; the first after the clock was set back counts the rest from then on."""
        self.recount(now_s)
        self.is_set_back = False
        for account, calls in self.counted.items():
            self.counted[account] = {call for call in calls if call.free_s > now_s}

    def recount(self, now_s: float) -> None:
        for calls in self.counted.values() if self.is_set_back else ():
            for call in calls:
                call.free_s = max(call.free_s, self._free_s(now_s + SKEW_S))

    def _free_s(self, counted_s: float) -> float:
        return counted_s + MINUTE_S + self.margin_s + GRAIN_S

    def give(self, call: Call) -> None:
        call.free_s = self._free_s(call.counted_s)
        self.counted[call.account].add(call)

    def claim(self, call: Call, now_s: float) -> None:
        call.is_granted, call.counted_s = False, now_s
        self.give(call)

    def send(self, call: Call, now_s: float, taken_s: float) -> None:
        """Raises: WrongError, if a limit is exceeded by it."""
        call.sent_s = now_s
        late_s = now_s - taken_s
        call.late_s = late_s if late_s > LATE_S else 0.0
        self._sent[call.account] = [one for one in self._sent[call.account] if one.sent_s > now_s - MINUTE_S]
        self._sent[call.account].append(call)
        self._flying[call.account].add(call)
        most = self._limits_since(call.account, call.given_s)
        known = self.sent_lately(call.account, now_s)
        self._judge(call, "requests", len(known), max(limits.requests_per_minute for limits in most))
        images = sum(one.images for one in known)
        self._judge(call, "images", images, max(limits.images_per_minute for limits in most))
        flying = len(self._flying[call.account])
        self._judge(call, "calls in flight", flying, max(limits.max_concurrency for limits in most))

    def _is_known(self, call: Call, now_s: float) -> bool:
        is_told = not call.late_s or call.counted_s > now_s - MINUTE_S
        return is_told and call.given_s > self._forgotten_s

    def _limits_since(self, account: str, since_s: float) -> list[AccountLimits]:
        """Those that held at that moment, and all later ones."""
        found: list[AccountLimits] = []
        for at_s, limits in reversed(self._limits[account]):
            found.append(limits)
            if at_s <= since_s:
                break
        return found

    @staticmethod
    def _judge(call: Call, what: str, count: int, most: int) -> None:
        if count > most:
            raise WrongError(f"{count} {what} at {call.account} instead of {most}, with {call.id}")

    def report_late(self, call: Call, now_s: float) -> None:
        """Redis is told that a call was sent later than it was leased."""
        if call.late_s:
            call.free_s = max(call.free_s, self._free_s(now_s))
            call.late_s = 0.0

    def end(self, call: Call) -> None:
        """The provider has answered, or its connection is gone."""
        self._flying[call.account].discard(call)

    def take_back(self, call: Call) -> None:
        """Nothing was sent, and Redis knows it."""
        self.counted[call.account].discard(call)

    def calls_of(self, account: str, now_s: float) -> set[Call]:
        """What may count in the account's minute."""
        return {call for call in self.counted[account] if call.free_s > now_s}

    def sent_lately(self, account: str, now_s: float) -> list[Call]:
        """What must count in the account's minute."""
        return [one for one in self._sent[account] if one.sent_s > now_s - MINUTE_S and self._is_known(one, now_s)]

    def room(self, account: str, now_s: float) -> tuple[int, int, int]:
        """Requests and images that the account's minute has at the least, and how many calls it counts."""
        limits, calls = self.accounts[account], self.calls_of(account, now_s)
        images = sum(call.images for call in calls)
        return limits.requests_per_minute - len(calls), limits.images_per_minute - images, len(calls)

    def reconcile(self, leased: Iterable[str]) -> None:
        """Grants that have expired count no more."""
        known = set(leased)
        for calls in self.counted.values():
            for call in [one for one in calls if one.is_granted and one.id not in known]:
                calls.discard(call)
