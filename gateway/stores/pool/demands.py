"""What is asked of the pool, what it gives, and what it is told afterwards."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.domain.faults import Fault
from gateway.domain.keys import UpstreamKey


class Repeat(Enum):
    """Whether a call repeats one that failed; the value is lua/pool/lease.lua's."""

    NO = 0
    OF_ILL_UPSTREAM = 1
    """It counts against the retry budget, and is refused beyond it."""
    OF_BAD_KEY = 2
    """It counts, and is let through: a bad key is out by then, so no outage is made worse."""


class Priority(Enum):
    """Which requests go first; the value is lua/pool/lease.lua's."""

    INTERACTIVE = "i"
    BATCH = "b"
    """It gets only what no interactive request waits for."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One call that needs an account."""

    upstream: str
    model: str
    """The upstream's name of the model."""
    images: int
    tenant: str
    weight: int
    patience_s: float
    """The longest wait; 0 does not wait."""
    asked: str = ""
    """`Lease.asked` or `NoKey.asked` of an earlier lease for the same call, whose place in the line it keeps."""
    repeat: Repeat = Repeat.NO
    avoided: tuple[str, ...] = ()
    """Ids of keys, or "ACCOUNT/" for a whole account."""
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one call with a key, now."""

    id: str
    key: UpstreamKey
    model: str
    images: int
    taken_s: float
    """Monotonic; it was taken then or later."""
    asked: str


@dataclass(frozen=True, slots=True)
class NoKey:
    """No key of the upstream may be used in time."""

    wait_s: float | None
    """Until one could be; None where nobody knows, or the call itself has used up every key."""
    is_busy: bool
    """The accounts are healthy and will have room."""
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a call tells of its key, its account and its upstream."""

    fault: Fault | None = None
    pause_s: float | None = None
    """What the upstream itself asked for."""
    cooldown_s: float | None = None
    """What the error carries, in place of the table's."""
    images: int = 0
    """Delivered."""
    usd_micros: int = 0
    sent_s: float | None = None
    """Monotonic; when the request was written."""
    is_cut_short: bool = False
    """It had less time than a call is given: that it got no answer says nothing of the upstream."""


UNSENT: Final = Report(Fault.CALL_NOT_SENT)
"""Nothing was sent, and nobody is to blame."""
