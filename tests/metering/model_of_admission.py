"""What admission is to do, by docs/metering.md: a model that has tickets, and counts everything anew from them."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

KEYS: Final = ("k1", "k2")
MODELS: Final = ("image-01", "m|x")
MIDNIGHTS_S: Final = (1_785_542_400, 1_785_628_800)
"""2026-08-01, a new day and a new month, and 2026-08-02, a new day of the same month."""
BATCHES: Final = ("batch_1", "batch_2")
LENGTH_S: Final = 300
UNSWEPT_MS: Final = 900_000
MEASURES: Final = ("requests", "asked", "delivered", "withheld", "lost", "unconfirmed", "usd_micros")
RANGES: Final = {
    "requests_per_minute": (2, 25),
    "images_per_minute": (9, 70),
    "concurrency": (1, 12),
    "images_per_day": (20, 150),
    "images_per_month": (20, 150),
    "usd_micros_per_month": (70_000, 1_200_000),
}
QUOTAS: Final = frozenset(name for name in RANGES if name.endswith(("_day", "_month")))


@dataclass(frozen=True)
class Process:
    """A gateway; its configuration may be an older one."""

    lease_ms: int
    prices: tuple[tuple[int, int], ...]
    """Since when, and micro-dollars."""
    retention_days: int


@dataclass
class Ticket:
    """An admitted request."""

    id: str
    process: Process
    key: str
    model: str
    asked: int
    price: int
    at_ms: int
    expires_ms: int
    images: int
    """What is reserved, and after the settlement what is charged."""
    batch: str = ""
    """The one that it is a line of."""
    is_open: bool = True
    is_recorded: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    record: dict[str, int] = field(default_factory=dict)
    """What it adds to the sums."""
    outcome: str = ""
    calls: str = ""
    is_by_itself: bool = False
    is_gone: bool = False
    """Redis has forgotten it: it settled by itself and was never sent."""
    left: set[str] = field(default_factory=set)
    """Scopes whose rate it has left: something was admitted when its second was not within a minute of the clock."""

    def is_recent(self, scope: str, now_s: int) -> bool:
        """Whether it counts in the rate of the tenant ("") or of its key."""
        return not self.batch and now_s - 60 <= self.at_ms // 1000 <= now_s and scope not in self.left

    @property
    def places(self) -> tuple[str, ...]:
        """The sets of open reservations that hold it."""
        return (("open", "batch_open") if self.batch else ("open",)) if self.is_open else ()

    @property
    def amounts(self) -> Iterator[tuple[str, int]]:
        """What it adds to its windows, by field."""
        for prefix in ("",) if self.is_open else ("", "charged_"):
            yield f"{prefix}images", self.images
            yield f"{prefix}usd_micros", self.images * self.price

    @property
    def sums(self) -> Iterator[tuple[tuple[str, str], int]]:
        """What it adds, by hash and field."""
        for name, amount in self.record.items():
            field = f"{self.key}|{name}|{self.model}"
            yield (f"sums:{self.day}", field), amount
            if self.batch and self.is_recorded:
                yield (f"batch_sums:{self.day}", f"{self.batch}|{field}"), amount

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.at_ms / 1000, UTC):%Y%m%d}"


class World:
    """The model: its clock, its limits and its tickets."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.base = f"ig3:{{t{seed}}}:"
        self.start_s = self.random.choice(MIDNIGHTS_S) - self.random.randrange(-10, LENGTH_S)
        self.now_ms = self.newest_ms = self.start_s * 1000 + self.random.randrange(1000)
        self.eras = {0}
        self.charges = self.random.randrange(2), self.random.randrange(2)
        change = (self.start_s + self.random.randrange(LENGTH_S), 4000)
        self.processes = [
            Process(60_000, ((0, 3500), change), 3660),
            Process(60_000, (change, (0, 3500)), 3600),
            Process(self.random.choice((5_000, 120_000)), ((0, 3500),), 3650),
        ]
        self.limits = self.draw_limits()
        self.reservations: dict[str, Ticket] = {}
        self.refused: list[Ticket] = []
        """Requests that were not admitted and count in their minute."""
        self.exhausted: dict[tuple[str, str], int] = {}
        """The highest limit of windows and quotas that have refused a request which they would admit unused."""
        self.events = 0
        self.ends: dict[str, int] = {}
        self.days: set[str] = set()
        self.used_days()

    def draw_limits(self) -> dict[str, dict[str, int]]:
        chances = {"": 0.6, "k1": 0.4, "k2": 0.0}
        return {
            scope: {name: self.random.randint(*span) for name, span in RANGES.items() if self.random.random() < chance}
            for scope, chance in chances.items()
        }

    def used_days(self) -> None:
        self.days.add(f"{datetime.fromtimestamp(self.now_ms / 1000, UTC):%Y%m%d}")

    def used(self, scope: str) -> Counter[str]:
        """How every limit of the tenant ("") or of a key stands now, and what lies in each second of the window."""
        now_s, today = self.now_ms // 1000, f"{datetime.fromtimestamp(self.now_ms / 1000, UTC):%Y%m%d}"
        found: Counter[str] = Counter()
        found["requests_per_minute"] = sum(reservation.is_recent(scope, now_s) for reservation in self.counted(scope))
        for reservation in self.reservations.values():
            if scope not in {"", reservation.key}:
                continue
            if reservation.is_recent(scope, now_s):
                found["images_per_minute"] += reservation.images
            is_running = reservation.is_open and reservation.expires_ms > self.now_ms - UNSWEPT_MS
            found["concurrency"] += is_running and not reservation.batch
            found["images_per_day"] += reservation.images * (reservation.day == today)
            found["images_per_month"] += reservation.images * (reservation.day[:6] == today[:6])
            found["usd_micros_per_month"] += reservation.images * reservation.price * (reservation.day[:6] == today[:6])
        return found

    def counted(self, scope: str) -> Iterator[Ticket]:
        """Every request that counts in the minute of the tenant ("") or of a key, while it is recent."""
        return (
            reservation
            for reservation in (*self.reservations.values(), *self.refused)
            if scope in {"", reservation.key}
        )

    def state(self) -> dict[str, dict[str, int]]:
        """All that Redis is to hold, by the end of its key; what is not there counts as 0."""
        now_s = self.now_ms // 1000
        found: dict[str, dict[str, int]] = defaultdict(Counter)
        for reservation in self.reservations.values():
            second, day = reservation.at_ms // 1000, reservation.day
            for scope, prefix in (("", ""), (reservation.key, f"key:{reservation.key}:")):
                for window in (f"{prefix}day:{day}", f"{prefix}month:{day[:6]}"):
                    for name, amount in reservation.amounts:
                        found[window][name] += amount
                if reservation.is_recent(scope, now_s):
                    found[f"{prefix}rate"][f"{second} images"] += reservation.images
                for name in reservation.places:
                    found[prefix + name][reservation.id] = reservation.expires_ms
            found[f"ledger:{day}"]["length"] += reservation.is_recorded
            for (name, measure), amount in reservation.sums:
                found[name][measure] += amount
        for name, second in self.recent_seconds():
            found[name][f"{second} requests"] += 1
        for (window, name), limit in self.exhausted.items():
            found[window][f"exhausted:{name}"] = limit
        found["events"]["length"] = self.events
        return {name: {key: value for key, value in fields.items() if value} for name, fields in found.items()}

    def recent_seconds(self) -> Iterator[tuple[str, int]]:
        """The rate in which each request counts, and its second."""
        for scope in ("", *KEYS):
            for reservation in self.counted(scope):
                if reservation.is_recent(scope, self.now_ms // 1000):
                    yield (f"key:{scope}:rate" if scope else "rate"), reservation.at_ms // 1000

    def names(self) -> list[str]:
        """The ends of the keys whose state is compared."""
        scopes = ("", *(f"key:{key}:" for key in KEYS))
        windows = [*(f"day:{day}" for day in self.days), *(f"month:{month}" for month in {d[:6] for d in self.days})]
        scoped = [scope + name for scope in scopes for name in ("open", "batch_open", "rate", *windows)]
        return ["events", *scoped] + [f"{kind}:{day}" for kind in ("ledger", "sums", "batch_sums") for day in self.days]

    # What the scripts are to do, from docs/metering.md.

    def admit(
        self, reservation_id: str, process: Process, key: str, model: str, images: int, batch: str = ""
    ) -> list[dict[str, Any]]:
        """Takes from all limits or from none. Returns: the replies that are right."""
        if reservation_id in self.reservations:
            return [{"decision": "admitted"}]
        price = max((since, micros) for since, micros in process.prices if since * 1000 <= self.now_ms)[1]
        refusals = self.refusals(key, images, price, is_line=bool(batch))
        expires_ms = self.now_ms + process.lease_ms
        new = Ticket(reservation_id, process, key, model, images, price, self.now_ms, expires_ms, images, batch)
        if not batch and not any(reply["limit"] == "requests_per_minute" for _, reply in refusals):
            for reservation in self.counted(""):
                if abs(reservation.at_ms // 1000 - self.now_ms // 1000) > 60:
                    reservation.left |= {"", key} & {"", reservation.key}
            if refusals:
                self.refused.append(replace(new, images=0))
        if refusals:
            for _, reply in refusals:
                if reply["decision"] == "quota" and not reply["is_permanent"]:
                    prefix = f"key:{key}:" if reply["scope"] == "key" else ""
                    window = f"day:{new.day}" if reply["limit"].endswith("_day") else f"month:{new.day[:6]}"
                    place, limit = (prefix + window, reply["limit"]), int(reply["allowed"])
                    self.events += limit > self.exhausted.get(place, -1)
                    self.exhausted[place] = max(limit, self.exhausted.get(place, -1))
            top = max(refusals, key=lambda found: found[0])[0]
            return [reply for rank, reply in refusals if rank == top]
        self.reservations[reservation_id] = new
        return [{"decision": "admitted"}]

    def refusals(
        self, key: str, images: int, price: int, *, is_line: bool
    ) -> list[tuple[tuple[int, int, int], dict[str, Any]]]:
        """Every limit that is reached: how much it matters, and the reply that names it."""
        asked = dict.fromkeys(RANGES, images) | {"requests_per_minute": 1, "concurrency": 1}
        asked["usd_micros_per_month"] = images * price
        found = []
        for scope in ("", key):
            used = self.used(scope)
            limits = self.limits[scope]
            if is_line:
                limits = {name: allowed for name, allowed in limits.items() if name in QUOTAS}
            for name, allowed in limits.items():
                if used[name] + asked[name] <= allowed:
                    continue
                frees_at_s = self.frees_at_s(scope, name, allowed - asked[name])
                is_quota, is_permanent = name in QUOTAS, asked[name] > allowed
                reply = {"decision": "quota" if is_quota else "rate", "scope": "key" if scope else "tenant"}
                reply |= {"limit": name, "allowed": f"{allowed}", "taken": f"{used[name]}", "asked": f"{asked[name]}"}
                stands = {"frees_at_s": frees_at_s, "is_permanent": is_permanent, "now_s": self.now_ms // 1000}
                found.append(((int(is_quota), int(is_permanent), frees_at_s), reply | stands))
        return found

    def frees_at_s(self, scope: str, name: str, most: int) -> int:
        """The first second in which no more than `most` is used, if nothing else happens; 0 where it is not known."""
        now_s = self.now_ms // 1000
        if name == "images_per_day":
            return (now_s // 86400 + 1) * 86400
        if name.endswith("per_month"):
            now = datetime.fromtimestamp(now_s, UTC)
            return int(datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC).timestamp())
        if name == "concurrency":
            return 0
        counts: Counter[int] = Counter()
        for reservation in self.counted(scope):
            if reservation.is_recent(scope, now_s):
                counts[reservation.at_ms // 1000] += 1 if name == "requests_per_minute" else reservation.images
        return next((s for s in range(now_s, now_s + 62) if sum(counts[t] for t in counts if t >= s - 60) <= most), 0)

    def send(self, reservation: Ticket, account: str, images: int) -> int:
        if not reservation.is_open:
            return 0
        reservation.sent[account] += images
        reservation.expires_ms = self.now_ms + reservation.process.lease_ms
        return 1

    def extend(self, reservations: list[Ticket], lease_ms: int) -> int:
        alive = [reservation for reservation in reservations if reservation.is_open]
        for reservation in alive:
            reservation.expires_ms = self.now_ms + lease_ms
        return len(alive)

    def settle_expired(self, reservation: Ticket, retention_days: int) -> dict[str, Any]:
        if reservation.is_gone:
            return {"status": "gone"}
        if not reservation.is_open:
            return {"status": "same"}
        if reservation.expires_ms > self.now_ms:
            return {"status": "alive"}
        left, calls = reservation.asked, []
        for account in sorted(reservation.sent):
            images = min(reservation.sent[account], left)
            if images > 0:
                calls.append(f"{account}:0,0,0,{images}")
                left -= images
        outcome = "unconfirmed" if calls else "refused" if reservation.sent else "not_sent"
        return self._settle(reservation, outcome, ";".join(calls), retention_days, was_sent=bool(reservation.sent))

    def settle(
        self, reservation: Ticket, outcome: str, calls: str, retention_days: int, *, was_sent: bool
    ) -> dict[str, Any]:
        if reservation.is_gone:
            return {"status": "gone"}
        if not reservation.is_open and (reservation.outcome, reservation.calls) == (outcome, calls):
            return {"status": "repeated" if reservation.is_by_itself else "same"}
        found = self._settle(reservation, outcome, calls, retention_days, was_sent=was_sent)
        reservation.is_by_itself = True
        reservation.is_gone = not reservation.is_recorded
        return found

    def _settle(
        self, reservation: Ticket, outcome: str, calls: str, retention_days: int, *, was_sent: bool
    ) -> dict[str, Any]:
        counts = [[int(number) for number in call.rpartition(":")[2].split(",")] for call in calls.split(";") if call]
        became = dict(zip(MEASURES[2:6], map(sum, zip(*counts, strict=True)), strict=False)) if counts else {}
        withheld, unconfirmed = self.charges
        delivered, paid = became.get("delivered", 0), reservation.record.get("usd_micros", 0)
        images = delivered + withheld * became.get("withheld", 0) + unconfirmed * became.get("unconfirmed", 0)
        reply: dict[str, Any] = {"status": "settled" if reservation.is_open else "corrected"}
        reservation.is_recorded = reservation.is_recorded or was_sent
        counted = {"requests": 1, "asked": reservation.asked} if reservation.is_recorded else {"not_sent": 1}
        reservation.record = {**counted, "usd_micros": images * reservation.price, **became}
        reservation.outcome, reservation.calls, reservation.images, reservation.is_open = outcome, calls, images, False
        reply |= {"outcome": outcome, "usd_micros": images * reservation.price - paid}
        if not reservation.is_recorded:
            return reply
        day_end = datetime.strptime(reservation.day, "%Y%m%d").replace(tzinfo=UTC).timestamp() + 86400
        self.ends[reservation.day] = max(self.ends.get(reservation.day, 0), int(day_end) + retention_days * 86400)
        return reply
