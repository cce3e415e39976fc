"""Usage: the ledger's sums, grouped for a report, and its records.

The ledger has a sheet per tenant and day of admission, in the configured time zone: sums by API key and model, and one
record per request.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from enum import Enum
from typing import Final

from gateway.domain.attribution import EVERY_REQUEST, OTHER, RequestFilter, tag_dimension
from gateway.domain.billing import AccountOutcome, BatchLine, Timings
from gateway.domain.pricing import Basis


@dataclass(frozen=True, slots=True)
class Usage:
    """The current counters of a tenant or a key. Images and money include reservations, less what was credited."""

    requests_last_minute: int
    images_last_minute: int
    concurrency: int
    images_today: int
    images_this_month: int
    usd_micros_this_month: int
    open_requests: int  # admitted and not settled, including requests of dead processes
    credited_images_today: int
    credited_images_this_month: int
    credited_usd_micros_this_month: int
    requests_free_at_s: int | None = None  # Unix; when no request of the last minute counts; None if none does now
    images_free_at_s: int | None = None


@dataclass(slots=True)
class UsageTotals:
    """Counts of requests and images, and their cost."""

    requests: int = 0
    asked: int = 0
    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    usd_micros: int = 0

    def add(self, other: "UsageTotals") -> None:
        for measure in MEASURES:
            self.increase(measure, other.of(measure))

    def increase(self, measure: str, amount: int) -> None:
        setattr(self, measure, self.of(measure) + amount)

    def of(self, measure: str) -> int:
        return int(getattr(self, measure))


def total_of(parts: Iterable[UsageTotals]) -> UsageTotals:
    total = UsageTotals()
    for part in parts:
        total.add(part)
    return total


MEASURES: Final = tuple(measure.name for measure in fields(UsageTotals))
"""Names of the measures, in display order."""

PURCHASES: Final = "purchases"
"""For one batch line or one idempotency key; no measure of the sums."""
Sums = Mapping[tuple[str, str, str], UsageTotals]
"""The sums of one sheet, by key ID, model, and the value by which they are split: batch ID, tag, user or upstream.

The value is "" for requests without one.
"""


@dataclass(frozen=True, slots=True, order=True)
class TenantDay:
    """One tenant on one day."""

    day: date
    tenant: str


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Selects sheets by day and tenant."""

    first: date
    last: date  # inclusive
    tenant: str | None = None  # None for all, including disabled ones


class GroupBy(Enum):
    """A column that a report can be grouped by."""

    DAY = "day"
    HOUR = "hour"
    MONTH = "month"
    TENANT = "tenant"
    COST_CENTRE = "cost_centre"
    OWNER = "owner"
    MODEL = "model"
    KEY = "key"
    BATCH = "batch"
    TAG = "tag"
    USER = "user"
    UPSTREAM = "upstream"
    CHARGE_CLASS = "charge_class"


SPLITS: Final = (
    *(GroupBy.HOUR, GroupBy.BATCH, GroupBy.TAG, GroupBy.USER, GroupBy.UPSTREAM),
    GroupBy.CHARGE_CLASS,
)
"""Columns that the sums by key and model lack. A report has at most one of them."""
HOLDERS: Final = (GroupBy.COST_CENTRE, GroupBy.OWNER)
"""Columns that are fields of the tenant's record, as it is when the report is made or the month was closed."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a tenant's cost belongs to."""

    cost_centre: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def columns(self) -> dict[GroupBy, str]:
        return {GroupBy.COST_CENTRE: self.cost_centre, GroupBy.OWNER: self.owner}


@dataclass(frozen=True, slots=True)
class Holders:
    """The present holder of a tenant, and that of each closed month, YYYYMM."""

    present: Holder = Holder()
    closed: Mapping[str, Holder] = field(default_factory=dict)

    def of(self, day: date) -> Holder:
        return self.closed.get(f"{day:%Y%m}", self.present)


Group = tuple[str, ...]
"""The grouping values of a row. Days are YYYY-MM-DD, so that they sort as text."""


class UsageReport:
    """One page of rows in order, and the total over all pages.

    Sheets are added in the order of the first grouping column if that is the day, the month or the tenant. So the page
    is complete once it has enough rows. Later sheets are read for the total only, or not at all if an earlier page
    counted it.
    """

    def __init__(
        self,
        by: tuple[GroupBy, ...],
        limit: int,
        after: Group | None = None,
        known_total: UsageTotals | None = None,
        wanted: RequestFilter = EVERY_REQUEST,
        own_key: str | None = None,
    ) -> None:
        """GroupBy.TAG needs a tag in `wanted`; any tag excludes the other columns of SPLITS.

        With `own_key`, all other keys are one, whose ID is empty.
        """
        self.total = known_total or UsageTotals()
        self.is_by_tenant_first = by[0] is GroupBy.TENANT
        tag = wanted.tag
        self.split = tag_dimension(tag.key) if tag else next((one.value for one in by if one in SPLITS), "")
        """The dimension by which sums are split; "" for none."""
        self.needs_holders = any(one in HOLDERS for one in by)
        self.holders: Mapping[str, Holders] = {}
        """By tenant; to be set before sheets are added, if they are needed."""
        self.groups_read = 0
        self._wanted, self._own_key = wanted, own_key
        self._has_total = known_total is not None
        self._by = by
        self._limit = limit
        self._after = after
        self._rows: dict[Group, UsageTotals] = {}
        self._lead: str | None = None

    def wants(self, sheet: TenantDay) -> bool:
        """Returns whether this sheet or any later one can change the page or the total."""
        return not self._has_total or self._shows(_columns(sheet).get(self._by[0]))

    def add(self, sheet: TenantDay, sums: Sums) -> None:
        columns = _columns(sheet)
        lead = columns.get(self._by[0])
        is_shown = self._shows(lead)
        columns |= self.holders.get(sheet.tenant, Holders()).of(sheet.day).columns()
        self.groups_read += len(sums)
        for (key, model, value), amounts in sums.items():
            if not self._wanted.takes(key, model, value):
                continue
            if not self._has_total:
                self.total.add(amounts)
            tagged = f"{self._wanted.tag.key}={value}" if self._wanted.tag and value else ""
            values = columns | dict.fromkeys(SPLITS, value) | {GroupBy.TAG: tagged, GroupBy.MODEL: model}
            values |= {GroupBy.KEY: key if self._own_key in {None, key} else ""}
            group = tuple(values[by] for by in self._by)
            if is_shown and (self._after is None or group > self._after):
                self._rows.setdefault(group, UsageTotals()).add(amounts)
        if is_shown:
            self._lead = lead

    def rows(self) -> list[tuple[Group, UsageTotals]]:
        """Returns the page, sorted."""
        return sorted(self._rows.items(), key=lambda row: row[0])[: self._limit]

    @property
    def has_more(self) -> bool:
        return len(self._rows) > self._limit

    def _shows(self, lead: str | None) -> bool:
        """Returns whether rows that begin with `lead` may belong to the page. None is of another order."""
        if lead is None:
            return True
        is_before = self._after is not None and lead < self._after[0]
        is_behind = self.has_more and lead != self._lead
        return not is_before and not is_behind


def _columns(sheet: TenantDay) -> dict[GroupBy, str]:
    day = sheet.day.isoformat()
    return {GroupBy.DAY: day, GroupBy.MONTH: day[:7], GroupBy.TENANT: sheet.tenant}


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One settled request, without prompt and images."""

    reservation: str
    admitted_ms: int  # Unix milliseconds
    request_id: str
    tenant: str
    key_id: str
    model: str
    amounts: UsageTotals
    price_usd_micros: int  # micro-dollars reserved for one image
    outcome: str  # a RequestOutcome's value
    calls: Mapping[tuple[str, str], AccountOutcome]  # by upstream and account
    durations: Timings
    line: BatchLine | None = None  # None for a request of no batch
    tags: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    correction_of: date | None = None
    """The day of a closed month to which the amounts are a difference; None for a request's own record."""
    basis: Basis = Basis.ANSWER
    summed: tuple[str, ...] = ()
    """The dimensions in whose sums it counts; DIMENSION= for those where it is one of OTHER."""

    @property
    def cost_usd_micros(self) -> int | None:
        """Returns what the providers took; None if that is not known of every call, or the record is a correction."""
        shares = [share for share in self.calls.values() if share.images]
        costs = [share.cost for share in shares if share.cost is not None]
        is_known = self.correction_of is None and len(costs) == len(shares)
        return math.ceil(sum(costs)) if is_known else None

    def is_selected(self, wanted: RequestFilter) -> bool:
        return wanted.takes(self.key_id, self.model, self._summed_value(wanted.tag.key) if wanted.tag else "")

    def _summed_value(self, tag: str) -> str:
        """Returns the value of a tag in whose sums it counts; "" for none."""
        for name in self.summed:
            dimension, is_other, _ = name.partition("=")
            if dimension == tag_dimension(tag):
                return OTHER if is_other else self.tags.get(tag, "")
        return ""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A sum that differs from the total of its records, or PURCHASES: of a line or key, one and those recorded."""

    sheet: TenantDay
    key_id: str
    model: str
    measure: str
    in_sums: int
    in_records: int
    batch_id: str = ""  # empty for requests of no batch
    split: str = ""  # "tag:KEY=VALUE", "user=VALUE" or "upstream=NAME" for a sum of those; empty for others


@dataclass(slots=True)
class Reconciliation:
    """The progress of a comparison of sums and records."""

    days: int = 0  # sheets that were compared
    records: int = 0
    expired_days: int = 0  # sheets whose records have expired
    busy_days: int = 0  # sheets that requests were settled into during the comparison
    differences: list[Discrepancy] = field(default_factory=list)


def differences(sheet: TenantDay, sums: Sums, counted: Sums) -> Iterator[Discrepancy]:
    """Yields every measure in which the sums and the records of a sheet differ."""
    for key, model, batch in sorted({*sums, *counted}):
        summed, recorded = (totals.get((key, model, batch), UsageTotals()) for totals in (sums, counted))
        for measure in MEASURES:
            if summed.of(measure) != recorded.of(measure):
                yield Discrepancy(sheet, key, model, measure, summed.of(measure), recorded.of(measure), batch)
