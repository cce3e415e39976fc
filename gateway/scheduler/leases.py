"""Requests for leases, leases, reports of calls, and the journal of those that Redis did not accept."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode
from gateway.redis.journal import Journal
from gateway.redis.journal_file import Entry
from gateway.scheduler.scripts import Scripts

RELEASE = "release"
"""Journal kind."""


class RetryKind(Enum):
    """Reason for repeating a call; the values are lua/lease.lua's."""

    FIRST = 0
    RETRY = 1
    """Counts against the retry budget, and is refused beyond it."""
    FAILOVER = 2
    """Counts, but is never refused: the bad key is out of rotation, so the retry worsens no outage."""


class Priority(Enum):
    """Priority of a request; the values are lua/lease.lua's."""

    INTERACTIVE = "i"
    BATCH = "b"
    """Gets only capacity that no interactive request waits for."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A lease request for one call."""

    upstream: str
    model: str
    """The upstream's name for the model."""
    images: int
    tenant: str
    weight: int
    patience_s: float
    """Maximum wait; 0 does not wait."""
    asked: str = ""
    """`asked` of an earlier lease for the same call, to keep its place in the queue."""
    repeat: RetryKind = RetryKind.FIRST
    avoided: tuple[str, ...] = ()
    """IDs of keys, or "ACCOUNT/" for a whole account."""
    priority: Priority = Priority.INTERACTIVE
    watched: str = ""
    """TENANT:REQUEST of a request whose place in the queue can be asked for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a waiting request, as of now: others may get theirs before or after it."""

    number: int
    """1 is the next."""
    wait_s: float | None
    """As foreseen; None if nothing can serve it now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one call with a key."""

    id: str
    key: ProviderKey
    model: str
    images: int
    taken_s: float
    """Monotonic; the lease was granted then or later."""
    asked: str


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """No key of the upstream is available in time."""

    wait_s: float | None
    """Until a key is available; None if unknown, or if the call itself has used up every key."""
    is_busy: bool
    """The accounts are healthy and will have capacity."""
    asked: str = ""


@dataclass(frozen=True, slots=True)
class CallReport:
    """The outcome of a call, for its key, account and upstream."""

    error_code: ErrorCode | None = None
    pause_s: float | None = None
    """The cooldown that the upstream requested."""
    cooldown_s: float | None = None
    """The error's own cooldown, which overrides the table's."""
    images: int = 0
    """Delivered."""
    usd_micros: int = 0
    sent_s: float | None = None
    """Monotonic; when the request was written."""
    is_cut_short: bool = False
    """It had less time than a call usually gets, so a timeout says nothing about the upstream."""


NOT_SENT: Final = CallReport(ErrorCode.NOT_SENT)
"""No call was sent, and no key is to blame."""


class _Release(msgspec.Struct, frozen=True):
    """Arguments of lua/release.lua."""

    upstream: str
    lease: str
    report: str


class Releases:
    """Journals releases until Redis accepts them, for the image and cost totals. The lease itself expires."""

    def __init__(self, scripts: Scripts, journal: Journal) -> None:
        self._scripts = scripts
        self._journal = journal

    async def journal(self, lease: Lease, report: CallReport) -> None:
        """Journals a success for the account's daily totals. A replay is too late to affect health."""
        if not report.images:
            return
        key = lease.key
        payload = {
            "account": key.account,
            "key": key.name,
            "fingerprint": key.secret.fingerprint,
            "model": lease.model,
            "images": report.images,
            "usd_micros": report.usd_micros,
        }
        release = _Release(key.upstream, lease.id, msgspec.json.encode(payload).decode())
        await self._journal.note([Entry(RELEASE, lease.id, msgspec.Raw(msgspec.json.encode(release)))])

    async def replay(self, body: msgspec.Raw) -> None:
        """Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""
        release = msgspec.json.decode(body, type=_Release)
        await self._scripts.run("release", release.upstream, [release.lease, release.report])
