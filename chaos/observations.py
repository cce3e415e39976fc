"""What is known when the run is over: each book as its own keeper wrote it. The audit compares, and asks nobody."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from chaos.phases import Outage, Overload

ID: Final = re.compile(r"cb-\d+-[a-z0-9]+-\d+")
"""A request's own id: in its header, which the ledger keeps, and in its prompt, which the provider sees."""

OWED_S: Final = 25.0
"""Longer than Redis is ever away, and than a gateway then takes to settle what it owes: one that is killed so shortly
after its answer may have owed the settlement."""

_FOREIGN_TIMEOUT: Final = -1024
"""302.AI's time-out; on MiniMax's path it is an HTTP 500 that is no error of MiniMax's."""


class Ending(StrEnum):
    """How a request ended for its client."""

    ANSWERED = "answered"
    LEFT = "left"
    """The client hung up."""
    BROKEN = "broken"
    """The connection did."""
    LATE = "late"
    """Nothing came in the time that is enough."""


@dataclass(slots=True)
class Asked:
    """One request, as its client saw it."""

    id: str
    tenant: str
    key_id: str
    wire: str
    asked: int
    sent_s: float
    """Monotonic, as every moment here: all processes of a machine have this clock."""
    ended_s: float = 0.0
    ending: Ending = Ending.LATE
    status: int = 0
    code: str = ""
    pictures: int = 0
    may_have_cost: bool = True
    """What the answer says by the documents: whether something may have been bought."""
    is_success: bool = False
    gateway: int | None = None
    """Number of the process that it was given to."""
    detail: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether it was refused because the accounts, or the tenant, may not do more in this minute."""
        return self.code in {"rate_limit_exceeded", "1002"}


class Call(msgspec.Struct, frozen=True):
    """One line of the provider's journal."""

    at: float
    account: str
    key: str
    path: str
    model: str
    prompt: str
    rule: str
    asked: int
    images: int
    withheld: int
    code: int
    page: int
    faults: tuple[str, ...]
    ended: float | None

    @property
    def request_id(self) -> str:
        found = ID.search(self.prompt)
        return found[0] if found else ""

    @property
    def billed(self) -> int:
        return self.images + self.withheld

    @property
    def is_unclear(self) -> bool:
        """Whether who made the call cannot know that it was free, though it was."""
        is_garbled = bool({"hang", "cut", "garbage"} & set(self.faults))
        is_late = self.code in {1001, _FOREIGN_TIMEOUT}
        return is_garbled or is_late or self.page != 0


class Share(msgspec.Struct, frozen=True):
    """What a record of the ledger says of one account."""

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
    """One record of the ledger."""

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

    @property
    def images(self) -> int:
        return self.delivered + self.withheld + self.lost + self.unconfirmed


class Bill(msgspec.Struct, frozen=True):
    """One account of the provider's invoice."""

    requests: int
    images: int
    withheld: int
    refusals: dict[str, int]
    peak_concurrency: int
    peak_per_minute: int


@dataclass(frozen=True, slots=True)
class Caps:
    """What a tenant may; None is no limit."""

    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    concurrency: int | None = None
    images_per_day: int | None = None
    images_per_month: int | None = None
    usd_micros_per_month: int | None = None

    @property
    def is_free(self) -> bool:
        """Nothing is limited."""
        return self == Caps()


@dataclass(frozen=True, slots=True)
class Reign:
    """For how long caps may have held: from when they were asked for, to when the next ones were confirmed."""

    caps: Caps
    since_s: float
    until_s: float


@dataclass(slots=True)
class Sums:
    """A tenant's sums of all days of the run, as the ledger keeps them beside its records."""

    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    usd_micros: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """A tenant's counters of a window, in Redis, against which its quotas are held."""

    images: int
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Process:
    """What is known of one process."""

    name: str
    number: int | None = None
    """A gateway's."""
    killed_s: float | None = None
    """When the run killed it."""
    worker_kills_s: tuple[float, ...] = ()
    """When the run killed one of its workers. Which of them had served a request is not known."""
    exit_code: int | None = None
    """Of one that was told to end; None where it did not."""
    was_told_to_end: bool = False
    died: bool = False
    """By itself, and nobody had asked for it."""
    memory: tuple[tuple[float, int], ...] = ()
    """(moment, resident bytes), one look after the other."""

    def was_killed(self, since_s: float, until_s: float) -> bool:
        """If the run killed it, or one of its workers, between two moments."""
        kills_s = (*self.worker_kills_s, *(() if self.killed_s is None else (self.killed_s,)))
        return any(since_s <= kill_s <= until_s for kill_s in kills_s)


@dataclass(slots=True)
class Recovery:
    """Who was asked to serve after the last blow, and after how many seconds he did; None: never."""

    who: str
    served_s: float | None = None
    """A picture, or the word that every account is busy: their minutes are no fault."""
    picture_s: float | None = None


@dataclass(slots=True)
class Evidence:
    """Everything."""

    asked: list[Asked] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    invoice: dict[str, Bill] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)
    days: dict[str, Counters] = field(default_factory=dict)
    months: dict[str, Counters] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)
    """Differences that `imagegate usage verify` found, and its own failure."""
    reigns: dict[str, list[Reign]] = field(default_factory=dict)
    revoked: dict[str, float] = field(default_factory=dict)
    """Key id -> when its revocation was confirmed."""
    leftovers: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    """(request id, what the gateway's log says) of what must never be there."""
    recovery: list[Recovery] = field(default_factory=list)
    overloads: list[Overload] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    clock_steps_s: list[float] = field(default_factory=list)
    """When Redis's wall clock was stepped, in order."""
    new_day_s: float | None = None
    """When a UTC day began during the run, if one did; the counters of quotas begin anew with it."""
    new_month_s: float | None = None


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something that does not hold."""

    what: str
    detail: str
    request_ids: tuple[str, ...] = ()
