"""The schedule of faults, computed from the seed before anything starts.

Lanes run concurrently, and in each one fault ends before the next begins: two concurrent faults of Redis would
show nothing more. Every kind occurs at least once in every run.
"""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.administration import TENANTS
from chaos.configuration import ACCOUNTS, KEYS_AN_ACCOUNT, LEASE_S, keys_of
from chaos.gateways import PLACES, WORKERS_PLACE

CALM_S: Final = 4.0
"""At the start: everything serves before the first fault."""
LAST_CALM_S: Final = 3.0
FEATURES: Final = {
    "overload": frozenset({"overload"}),
    "outages": frozenset({"redis stalls, long", "redis is killed, long"}),
    "workers": frozenset({"worker killed", "supervisor killed"}),
    "clock": frozenset(f"redis clock {offset_s:+d} s" for offset_s in (2, -2, 30, -30, 90, -90)),
}
"""Features that can be disabled -> their kinds of fault."""

_LANES: Final = {
    "gateways": (
        "kill",
        "kill",
        "kill",
        "end",
        "rolling restart",
        "worker killed",
        "worker killed",
        "supervisor killed",
    ),
    "redis": (
        "redis stands still",
        "redis is killed",
        "redis is restarted",
        "black hole",
        "black hole, then cut",
        "redis stalls, long",
        "redis is killed, long",
    ),
    "provider": ("hang", "cut", "502", "garbage", "key dead", "account broke", "window used up", "poison", "poison"),
    "operators": ("key revoked", "limits changed", "limits changed", "reload", "wrong reload", "reload by signal"),
    "clock": tuple(sorted(FEATURES["clock"])),
    "load": ("overload",),
}
_MEAN_GAP_S: Final = {"gateways": 6.0, "redis": 9.0, "provider": 6.0, "operators": 6.0, "clock": 9.0, "load": 40.0}
_SPAN: Final = {"clock": (2 / 3, 1.0), "load": (0.0, 0.3)}
"""Part of the run for a lane. Whole minutes are checked before the clock is stepped; an overload comes first."""
_LONG: Final = frozenset({"hang", "cut", "502", "garbage", "key dead", "account broke", "window used up"})
_ACCOUNTS: Final = [account for group in ACCOUNTS.values() for account in group]
_POISONS: Final = (1002, 1039, 1041, 2045, 1008, 2049, 2056, 1028, 2061)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    at_s: float
    """Since the start, at the earliest."""
    lane: str
    kind: str
    seconds: float = 0.0
    """Duration, if it lasts."""
    target: str = ""
    """A key, an account, a tenant's number, or a gateway slot."""
    number: int = 0
    """A code, a choice, or seconds of clock offset."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        number = f" {self.number}" if self.number and self.lane != "clock" else ""
        return f"{self.kind} {self.target}".strip() + number + lasting


def plan(seed: int, seconds: float, without: Collection[str] = ()) -> list[Fault]:
    """Returns every fault of a run of this length in order of time; disabled features do not change the others."""
    faults: list[Fault] = []
    for lane, kinds in _LANES.items():
        chance = Random(f"{seed}/{lane}")  # noqa: S311 - it is to be repeatable
        faults += _plan_lane(chance, lane, kinds, seconds)
    dropped = frozenset[str]().union(*(FEATURES[name] for name in without))
    kept = [fault for fault in faults if fault.kind not in dropped]
    return sorted(kept, key=lambda fault: (fault.at_s, fault.lane))


def _plan_lane(chance: Random, lane: str, kinds: tuple[str, ...], seconds: float) -> list[Fault]:
    """Plays all kinds in random order before any repeats."""
    run_s = max(1.0, seconds - CALM_S - LAST_CALM_S)
    first, last = _SPAN.get(lane, (0.0, 1.0))
    count = max(len(kinds), int(run_s * (last - first) / _MEAN_GAP_S[lane]))
    deck: list[str] = []
    while len(deck) < count:
        deck += chance.sample(kinds, len(kinds))
    moments = sorted(CALM_S + run_s * chance.uniform(first, last) for _ in range(count))
    return [_fault(chance, at_s, lane, kind) for at_s, kind in zip(moments, deck, strict=False)]


def _fault(chance: Random, at_s: float, lane: str, kind: str) -> Fault:
    """Draws the same count of random numbers for every kind."""
    short_s, long_s = round(chance.uniform(0.3, 3.0), 1), round(chance.uniform(1.0, 5.0), 1)
    place, number = chance.randrange(PLACES), chance.randrange(1_000_000)
    account, minimax = _ACCOUNTS[number % len(_ACCOUNTS)], ACCOUNTS["minimax"]
    targets = {
        "kill": str(place),
        "end": str(place),
        "worker killed": str(WORKERS_PLACE),
        "supervisor killed": str(WORKERS_PLACE),
        "key dead": keys_of(account)[number % KEYS_AN_ACCOUNT],
        "account broke": minimax[number % len(minimax)],
        "window used up": minimax[number % len(minimax)],
        "key revoked": str(number % TENANTS),
        "limits changed": str(number % TENANTS),
    }
    choices = {"poison": _POISONS[number % len(_POISONS)], "reload": 1 + number % 5}
    seconds = _seconds(lane, kind, short_s, long_s)
    offset_s = int(kind.split()[2]) if lane == "clock" else 0
    return Fault(at_s, lane, kind, seconds, targets.get(kind, ""), choices.get(kind, offset_s))


def _seconds(lane: str, kind: str, short_s: float, long_s: float) -> float:
    if kind in FEATURES["outages"]:
        return LEASE_S + 1 + short_s / 2
    if lane == "load":
        return 10 + long_s
    if lane in {"redis", "clock"}:
        return short_s
    return long_s if kind in _LONG else 0.0
