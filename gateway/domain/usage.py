"""What was used: the ledger's sums, grouped for a report, and its records.

A sheet is one tenant's one day (UTC, of admission). Its sums are kept by key and model, its records one a request.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from enum import Enum
from typing import Final

from gateway.domain.billing import AccountOutcome, Timings


@dataclass(slots=True)
class UsageTotals:
    """Counts of requests and images, and what they cost."""

    requests: int = 0
    asked: int = 0
    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    usd_micros: int = 0

    def add(self, other: "UsageTotals") -> None:
        self.requests += other.requests
        self.asked += other.asked
        self.delivered += other.delivered
        self.withheld += other.withheld
        self.lost += other.lost
        self.unconfirmed += other.unconfirmed
        self.usd_micros += other.usd_micros

    def of(self, measure: str) -> int:
        return int(getattr(self, measure))


MEASURES: Final = tuple(measure.name for measure in fields(UsageTotals))
"""As the sums name them, in the order in which they are told."""

Sums = Mapping[tuple[str, str], UsageTotals]
"""Of one sheet, by key id and model."""


@dataclass(frozen=True, slots=True, order=True)
class TenantDay:
    """One tenant's one day."""

    day: date
    tenant: str


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which sheets are meant."""

    first: date
    last: date
    """Included."""
    tenant: str | None = None
    """None for all, disabled ones too."""


class GroupBy(Enum):
    """What a report may be grouped by."""

    DAY = "day"
    TENANT = "tenant"
    MODEL = "model"
    KEY = "key"


Group = tuple[str, ...]
"""A row's values of what the report is grouped by; days as YYYY-MM-DD, so that they sort as text."""


class UsageReport:
    """One page of rows in order, and the total over all pages.

    Sheets come in the order of the first thing that is grouped by, where that is the day or the tenant. So the page is
    complete as soon as enough rows lie behind, and what follows is read for the total only, or not at all where an
    earlier page has counted it.
    """

    def __init__(
        self, by: tuple[GroupBy, ...], limit: int, after: Group | None = None, known_total: UsageTotals | None = None
    ) -> None:
        self.total: UsageTotals = known_total or UsageTotals()
        self._has_total = known_total is not None
        self._by = by
        self._limit = limit
        self._after = after
        self._rows: dict[Group, UsageTotals] = {}
        self._lead: str | None = None

    @property
    def is_by_tenant_first(self) -> bool:
        return self._by[0] is GroupBy.TENANT

    def wants(self, sheet: TenantDay) -> bool:
        """Whether a sheet, or any that would come after it, can change the page or the total."""
        return not self._has_total or self._shows(self._lead_of(sheet))

    def add(self, sheet: TenantDay, sums: Sums) -> None:
        lead = self._lead_of(sheet)
        is_shown = self._shows(lead)
        for (key, model), amounts in sums.items():
            if not self._has_total:
                self.total.add(amounts)
            group = self._group(sheet, key, model)
            if is_shown and (self._after is None or group > self._after):
                self._rows.setdefault(group, UsageTotals()).add(amounts)
        if is_shown:
            self._lead = lead

    def rows(self) -> list[tuple[Group, UsageTotals]]:
        """The page."""
        return sorted(self._rows.items(), key=lambda row: row[0])[: self._limit]

    @property
    def has_more(self) -> bool:
        return len(self._rows) > self._limit

    def _lead_of(self, sheet: TenantDay) -> str | None:
        """Where the sheet's rows lie; None where they may lie anywhere."""
        match self._by[0]:
            case GroupBy.DAY:
                return sheet.day.isoformat()
            case GroupBy.TENANT:
                return sheet.tenant
            case _:
                return None

    def _shows(self, lead: str | None) -> bool:
        """Whether rows that begin with `lead` may stand on the page."""
        if lead is None:
            return True
        is_before = self._after is not None and lead < self._after[0]
        is_behind = self.has_more and lead != self._lead
        return not is_before and not is_behind

    def _group(self, sheet: TenantDay, key: str, model: str) -> Group:
        values = {
            GroupBy.DAY: sheet.day.isoformat(),
            GroupBy.TENANT: sheet.tenant,
            GroupBy.MODEL: model,
            GroupBy.KEY: key,
        }
        return tuple(values[by] for by in self._by)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One settled request. There is no prompt and no picture in it."""

    reservation: str
    admitted_ms: int
    """Unix milliseconds."""
    request_id: str
    tenant: str
    key_id: str
    model: str
    amounts: UsageTotals
    price_usd_micros: int
    """Of one image."""
    outcome: str
    """A Settlement's value."""
    calls: Mapping[tuple[str, str], AccountOutcome]
    """By upstream and account."""
    durations: Timings


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A sum that is not what the records add up to."""

    sheet: TenantDay
    key_id: str
    model: str
    measure: str
    in_sums: int
    in_records: int


@dataclass(slots=True)
class Reconciliation:
    """What a comparison of sums and records has found so far."""

    days: int = 0
    """Sheets that were compared."""
    records: int = 0
    expired_days: int = 0
    """Sheets whose records are no longer kept: nothing to compare."""
    busy_days: int = 0
    """Sheets that were settled into all the while, so that nothing can be said."""
    differences: list[Discrepancy] = field(default_factory=list)


def differences(sheet: TenantDay, sums: Sums, counted: Sums) -> Iterator[Discrepancy]:
    """Every measure in which a sheet's sums and its records disagree, in either direction."""
    for key, model in sorted({*sums, *counted}):
        told, found = (one.get((key, model), UsageTotals()) for one in (sums, counted))
        for measure in MEASURES:
            if told.of(measure) != found.of(measure):
                yield Discrepancy(sheet, key, model, measure, told.of(measure), found.of(measure))
