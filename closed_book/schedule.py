"""What is thrown, and when: computed from the seed before anything starts.

Four lanes run side by side, and in each one blow ends before the next begins: what is thrown at Redis twice at once
would show nothing more. Every kind comes at least once in every run.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from closed_book.administration import TENANTS
from closed_book.configuration import ACCOUNTS, KEYS_AN_ACCOUNT, keys_of
from closed_book.gateways import PLACES

CALM_S: Final = 4.0
"""At the beginning: everything serves before anything is thrown."""
LAST_CALM_S: Final = 3.0

_LANES: Final = {
    "gateways": ("kill", "kill", "kill", "end", "rolling restart"),
    "redis": ("redis stands still", "redis is killed", "redis is restarted", "black hole", "black hole, then cut"),
    "provider": ("hang", "cut", "502", "garbage", "key dead", "account broke", "window used up", "poison", "poison"),
    "operators": ("key revoked", "limits changed", "limits changed", "reload", "wrong reload", "reload by signal"),
}
_MEAN_GAP_S: Final = {"gateways": 6.0, "redis": 9.0, "provider": 6.0, "operators": 6.0}
_LONG: Final = frozenset({"hang", "cut", "502", "garbage", "key dead", "account broke", "window used up"})
_ACCOUNTS: Final = [account for group in ACCOUNTS.values() for account in group]
_POISONS: Final = (1002, 1039, 1041, 2045, 1008, 2049, 2056, 1028, 2061)


@dataclass(frozen=True, slots=True)
class Blow:
    """One of them."""

    at_s: float
    """Since the beginning, at the earliest."""
    lane: str
    kind: str
    seconds: float = 0.0
    """For how long, where it lasts."""
    target: str = ""
    """A key, an account, a tenant's number, a place."""
    number: int = 0
    """A code, a choice."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}".strip() + (f" {self.number}" if self.number else "") + lasting


def plan(seed: int, seconds: float) -> list[Blow]:
    """Every blow of a run of this length, in order of its moment."""
    blows: list[Blow] = []
    for lane, kinds in _LANES.items():
        chance = Random(f"{seed}/{lane}")  # noqa: S311 - it is to be repeatable
        blows += _plan_lane(chance, lane, kinds, seconds)
    return sorted(blows, key=lambda blow: (blow.at_s, blow.lane))


def _plan_lane(chance: Random, lane: str, kinds: tuple[str, ...], seconds: float) -> list[Blow]:
    """The deck is played as a whole before any kind comes again, in another order each time."""
    room_s = max(1.0, seconds - CALM_S - LAST_CALM_S)
    count = max(len(kinds), int(room_s / _MEAN_GAP_S[lane]))
    deck: list[str] = []
    while len(deck) < count:
        deck += chance.sample(kinds, len(kinds))
    moments = sorted(CALM_S + chance.random() * room_s for _ in range(count))
    return [_blow(chance, at_s, lane, kind) for at_s, kind in zip(moments, deck, strict=False)]


def _blow(chance: Random, at_s: float, lane: str, kind: str) -> Blow:
    """The same number of draws whatever the kind."""
    short_s, long_s = round(chance.uniform(0.3, 3.0), 1), round(chance.uniform(1.0, 5.0), 1)
    place, number = chance.randrange(PLACES), chance.randrange(1_000_000)
    account, minimax = _ACCOUNTS[number % len(_ACCOUNTS)], ACCOUNTS["minimax"]
    targets = {
        "kill": str(place),
        "end": str(place),
        "key dead": keys_of(account)[number % KEYS_AN_ACCOUNT],
        "account broke": minimax[number % len(minimax)],
        "window used up": minimax[number % len(minimax)],
        "key revoked": str(number % TENANTS),
        "limits changed": str(number % TENANTS),
    }
    seconds = short_s if lane == "redis" else long_s if kind in _LONG else 0.0
    choices = {"poison": _POISONS[number % len(_POISONS)], "reload": 1 + number % 5}
    return Blow(at_s, lane, kind, seconds, targets.get(kind, ""), choices.get(kind, 0))
