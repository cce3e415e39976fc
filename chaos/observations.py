"""Observations after the run, as recorded by each party. The reconciliation uses nothing else."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from chaos.ledger_records import Counters, Line, Sums
from chaos.phases import Outage, Overload

ID: Final = re.compile(r"cb-\d+-[a-z0-9]+-\d+")
"""A request's own ID: in its header, which the ledger records, and in its prompt, which the provider records."""

OWED_S: Final = 25.0
"""Longer than any Redis outage plus the following settlements. A gateway killed this soon after its response may not

have settled.
"""

_FOREIGN_TIMEOUT: Final = -1024
"""302.AI's timeout; on MiniMax's path it is an HTTP 500 that is not a MiniMax error."""


class Ending(StrEnum):
    """How a request ended for its client."""

    ANSWERED = "answered"
    LEFT = "left"
    """The client disconnected."""
    BROKEN = "broken"
    """The connection broke."""
    LATE = "late"
    """No response within the timeout."""


@dataclass(slots=True)
class Asked:
    """One request, as seen by its client."""

    id: str
    tenant: str
    key_id: str
    wire: str
    asked: int
    sent_s: float
    """Monotonic, like every time here: all processes of a machine share this clock."""
    ended_s: float = 0.0
    ending: Ending = Ending.LATE
    status: int = 0
    code: str = ""
    pictures: int = 0
    may_have_cost: bool = True
    """If, by the documentation, the response means that something may have been bought."""
    is_success: bool = False
    gateway: int | None = None
    """Number of the process that received it last."""
    gateways: frozenset[int] = frozenset()
    """Of all that received it."""
    detail: str = ""
    digest: str = ""
    """Of the images that it got."""
    is_replayed: bool = False
    """The response is marked as that of an earlier request."""
    is_keyed: bool = False
    """It has an Idempotency-Key."""
    batch: str = ""
    """ID of the batch of a line."""
    attempts: list["Asked"] = field(default_factory=list)
    """Those of a request that its client repeats. The other fields are then what the client has in the end."""

    @property
    def purchases_max(self) -> int:
        """Returns how often its images may be bought: attempts without a key may be orders of their own."""
        return 1 if self.is_keyed else max(1, len(self.attempts))

    @property
    def is_repeated(self) -> bool:
        """True if attempts that cost nothing may have ledger records of their own."""
        return bool(self.attempts or self.batch)

    @property
    def is_busy(self) -> bool:
        """True if it was refused by a limit of the accounts or the tenant for this minute."""
        return self.code in {"rate_limit_exceeded", "1002"}


class Call(msgspec.Struct, frozen=True):
    """One line of the provider's call log."""

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
        """True if its caller cannot know that it was free, though it was."""
        is_garbled = bool({"hang", "cut", "garbage"} & set(self.faults))
        is_late = self.code in {1001, _FOREIGN_TIMEOUT}
        return is_garbled or is_late or self.page != 0


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
    """Limits of a tenant; None is unlimited."""

    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    concurrency: int | None = None
    images_per_day: int | None = None
    images_per_month: int | None = None
    usd_micros_per_month: int | None = None

    @property
    def is_free(self) -> bool:
        """True if nothing is limited."""
        return self == Caps()


@dataclass(frozen=True, slots=True)
class LimitPeriod:
    """The time during which limits may have applied: from their request to the confirmation of the next ones."""

    caps: Caps
    since_s: float
    until_s: float


@dataclass(slots=True)
class Batch:
    """One batch, as seen by its client."""

    name: str
    tenant: str
    custom_ids: tuple[str, ...]
    """Of its lines."""
    id: str = ""
    status: str = ""
    """Empty if it was never created."""
    is_cancelled: bool = False
    counts: tuple[int, ...] = ()
    """total, completed, failed."""
    output: list[str] = field(default_factory=list)
    """Custom IDs in the output file."""
    errors: list[str] = field(default_factory=list)
    """Custom IDs in the error file."""
    faults: list[str] = field(default_factory=list)
    """Calls that were refused, and images that are not those of their line."""


@dataclass(frozen=True, slots=True)
class Process:
    """Observations of one process."""

    name: str
    number: int | None = None
    """A gateway's."""
    killed_s: float | None = None
    """When the run killed it."""
    worker_kills_s: tuple[float, ...] = ()
    """When the run killed one of its workers. Which worker had served a request is unknown."""
    exit_code: int | None = None
    """Of a process told to end; None if it did not."""
    was_told_to_end: bool = False
    died: bool = False
    """It exited without being told to."""
    memory: tuple[tuple[float, int], ...] = ()
    """(time, resident bytes), in order."""

    def was_killed(self, since_s: float, until_s: float) -> bool:
        """Returns True if the run killed it, or one of its workers, between two times."""
        kills_s = (*self.worker_kills_s, *(() if self.killed_s is None else (self.killed_s,)))
        return any(since_s <= kill_s <= until_s for kill_s in kills_s)


@dataclass(slots=True)
class Recovery:
    """Seconds until a target served again after the last fault; None: never."""

    who: str
    served_s: float | None = None
    """An image, or the response that every account is busy, which is not an error."""
    picture_s: float | None = None


@dataclass(slots=True)
class Observations:
    """All observations."""

    asked: list[Asked] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    invoice: dict[str, Bill] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    batch_sums: dict[str, Sums] = field(default_factory=dict)
    """Batch ID -> usage, as reported by batch."""
    split_sums: dict[str, dict[str, Sums]] = field(default_factory=dict)
    """One of SPLITS -> value -> usage, as reported by it."""
    days: dict[str, Counters] = field(default_factory=dict)
    months: dict[str, Counters] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)
    """Discrepancies found by `imagegate usage verify`, or its own failure."""
    limit_periods: dict[str, list[LimitPeriod]] = field(default_factory=dict)
    revoked: dict[str, float] = field(default_factory=dict)
    """Key ID -> time of the confirmed revocation."""
    leftovers: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    """(request ID, log line) of forbidden log events."""
    recovery: list[Recovery] = field(default_factory=list)
    overloads: list[Overload] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    clock_steps_s: list[float] = field(default_factory=list)
    """When Redis's wall clock was stepped, in order."""
    new_day_s: float | None = None
    """When a UTC day began during the run, which resets the daily quotas."""
    new_month_s: float | None = None


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A violated invariant."""

    what: str
    detail: str
    request_ids: tuple[str, ...] = ()
