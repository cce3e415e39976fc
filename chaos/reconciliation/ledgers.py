"""The three ledgers: the provider's invoice, the ledger records and the tenants' sums.

One difference between the first two is unavoidable: images that were ordered, of unknown outcome and not billed.
A gateway killed between recording an order and sending it cannot revert the record, and garbage hides the cost.
The ledger must hold such images as unconfirmed. Each is traced to its cause, request by request. One without a
cause is a discrepancy, as is every billed image that the ledger lacks.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from chaos.configuration import PRICES, TAG_KEY
from chaos.ledger_records import SPLITS, Counters, Line, Share, Sums
from chaos.observations import OWED_S, Call, Discrepancy, Ending, Observations


@dataclass(slots=True)
class Row:
    """One account in both ledgers."""

    billed: int = 0
    billed_usd_micros: int = 0
    delivered: int = 0
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    ledger_usd_micros: int = 0
    unbilled: int = 0
    """Unconfirmed images that are not billed, with a known cause."""
    unbilled_usd_micros: int = 0

    @property
    def ledger(self) -> int:
        return self.delivered + self.withheld + self.lost + self.unconfirmed

    def add(self, other: "Row") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Books:
    """The ledgers side by side."""

    rows: dict[str, Row] = field(default_factory=dict)
    """By account."""
    total: Row = field(default_factory=Row)
    sums_images: int = 0
    """Of the tenants' daily sums."""
    sums_usd_micros: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """Cause -> images that are not billed."""


def compare_books(observed: Observations) -> tuple[Books, list[Discrepancy]]:
    """Compares every request at every account, every account, and the total."""
    books, found = Books(rows=defaultdict(Row)), list[Discrepancy]()
    found += _check_journal(observed)
    calls, lines = _calls_by_request(observed), _lines_by_request(observed)
    for request_id in sorted(calls.keys() | lines.keys()):
        found += _compare_request(observed, books, request_id, calls.get(request_id, []), lines.get(request_id, []))
    for row in books.rows.values():
        books.total.add(row)
    found += _check_total(books.total, "in total")
    for account, row in books.rows.items():
        found += _check_total(row, f"of account {account}")
    found += _check_sums(observed, books)
    found += _check_split_sums(observed)
    return books, found


def _calls_by_request(observed: Observations) -> dict[str, list[Call]]:
    found = defaultdict[str, list[Call]](list)
    for call in observed.calls:
        found[call.request_id].append(call)
    return found


def _lines_by_request(observed: Observations) -> dict[str, list[Line]]:
    found = defaultdict[str, list[Line]](list)
    for line in observed.lines:
        found[line.request_id].append(line)
    return found


def _check_journal(observed: Observations) -> Iterator[Discrepancy]:
    """Checks that the provider's call log adds up to its invoice."""
    journal = Counter[str]()
    for call in observed.calls:
        journal[call.account] += call.billed
    for account, bill in observed.invoice.items():
        if journal[account] != bill.images + bill.withheld:
            detail = f"{account}: journal {journal[account]}, invoice {bill.images + bill.withheld}"
            yield Discrepancy("the provider's journal is not its invoice", detail)


def _compare_request(
    observed: Observations, books: Books, request_id: str, calls: list[Call], lines: list[Line]
) -> Iterator[Discrepancy]:
    asked = next((one for one in observed.asked if one.id == request_id), None)
    bought = [line for line in lines if line.images or not (asked and asked.is_repeated)]
    if len(bought) > (asked.purchases_max if asked else 1):
        yield Discrepancy("in the ledger twice", f"{len(lines)} records", (request_id,))
    accounts = {call.account for call in calls} | {share.account for line in lines for share in line.calls}
    for account in sorted(accounts):
        own = [call for call in calls if call.account == account]
        shares = [share for line in lines for share in line.calls if share.account == account]
        yield from _compare_account(observed, books, (request_id, account), own, (shares, lines))
    for line in lines:
        if line.usd_micros != (line.delivered + line.withheld + line.unconfirmed) * PRICES_BY_MODEL[line.model]:
            yield Discrepancy("a record's money is not its images' price", f"{line.usd} for {line}", (request_id,))


def _compare_account(
    observed: Observations,
    books: Books,
    place: tuple[str, str],
    calls: list[Call],
    entries: tuple[list[Share], list[Line]],
) -> Iterator[Discrepancy]:
    """Compares one request at one account."""
    (request_id, account), (shares, lines) = place, entries
    row = Row(billed=sum(call.billed for call in calls))
    row.billed_usd_micros = sum(call.billed * PRICES[call.model] for call in calls if call.billed)
    for share in shares:
        row.delivered, row.withheld = row.delivered + share.delivered, row.withheld + share.withheld
        row.lost, row.unconfirmed = row.lost + share.lost, row.unconfirmed + share.unconfirmed
    price = PRICES_BY_MODEL[lines[0].model] if lines else 0
    row.ledger_usd_micros = (row.ledger - row.lost) * price
    over = row.ledger - row.billed
    if over < 0:
        detail = f"{account}: billed {row.billed}, in the ledger {row.ledger}"
        yield Discrepancy("billed by the provider and not in the ledger", detail, (request_id,))
    elif over > 0:
        cause = _cause(observed, request_id, calls, lines) if over <= row.unconfirmed else ""
        if cause:
            row.unbilled, row.unbilled_usd_micros = over, over * price
            books.causes[cause] += over
        else:
            detail = f"{account}: in the ledger {row.ledger} ({row.unconfirmed} unconfirmed), billed {row.billed}"
            yield Discrepancy("in the ledger and not billed, without a cause", detail, (request_id,))
    made, withheld = sum(call.images for call in calls), sum(call.withheld for call in calls)
    if row.delivered + row.lost > made or row.withheld > withheld:
        detail = f"{account}: delivered {row.delivered} of {made} made, withheld {row.withheld} of {withheld}"
        yield Discrepancy("the ledger says more than was made", detail, (request_id,))
    books.rows[account].add(row)


def _cause(observed: Observations, request_id: str, calls: list[Call], lines: list[Line]) -> str:
    """Returns why an image may be unconfirmed and not billed; "" if it may not."""
    if any(call.is_unclear and not call.billed for call in calls):
        return "an answer that leaves the cost open, and cost nothing"
    asked = next((one for one in observed.asked if one.id == request_id), None)
    if asked is None:
        return ""
    is_dead = all(line.delivered + line.withheld + line.lost == 0 for line in lines)
    until_s = asked.ended_s + OWED_S if asked.ending is Ending.ANSWERED else float("inf")
    own = [one for one in observed.processes if one.number in asked.gateways]
    was_under_way = any(one.was_killed(asked.sent_s, until_s) for one in own)
    return "its gateway was killed before it could settle" if is_dead and was_under_way else ""


def _check_total(row: Row, where: str) -> Iterator[Discrepancy]:
    if row.billed + row.unbilled != row.ledger:
        detail = f"invoice {row.billed} + not billed {row.unbilled}, ledger {row.ledger}"
        yield Discrepancy(f"images differ {where}", detail)
    if row.lost == 0 and row.billed_usd_micros + row.unbilled_usd_micros != row.ledger_usd_micros:
        detail = (
            f"invoice {row.billed_usd_micros} + not billed {row.unbilled_usd_micros}, ledger {row.ledger_usd_micros}"
        )
        yield Discrepancy(f"micro-dollars differ {where}", detail)


def _check_sums(observed: Observations, books: Books) -> Iterator[Discrepancy]:
    """Compares the tenants' sums and counters with the records."""
    recorded = defaultdict[str, Sums](Sums)
    for line in observed.lines:
        recorded[line.tenant].add(line)
    for tenant in sorted(recorded.keys() | observed.sums.keys()):
        ours, theirs = recorded[tenant], observed.sums.get(tenant, Sums())
        books.sums_images += theirs.delivered + theirs.withheld + theirs.lost + theirs.unconfirmed
        books.sums_usd_micros += theirs.usd_micros
        if ours != theirs:
            yield Discrepancy("a tenant's sums are not its records", f"{tenant}: records {ours}, sums {theirs}")
        charged = Counters(ours.delivered + ours.withheld + ours.unconfirmed, ours.usd_micros)
        for name, windows in (("days", observed.days), ("months", observed.months)):
            counted = windows.get(tenant, Counters(0, 0))
            if counted != charged:
                detail = f"{tenant}: records {charged}, {name} {counted}"
                yield Discrepancy("a tenant's counters are not its records", detail)
    for told in observed.verified:
        yield Discrepancy("imagegate usage verify", told)


def _check_split_sums(observed: Observations) -> Iterator[Discrepancy]:
    """Compares the usage by tag, user and upstream with the records; of upstreams, images and money."""
    recorded: dict[str, dict[str, Sums]] = {by: defaultdict(Sums) for by in SPLITS}
    for line in observed.lines:
        tag = line.tags.get(TAG_KEY)
        for by, value in (("tag", f"{TAG_KEY}={tag}" if tag else ""), ("user", line.user or "")):
            recorded[by][value].add(line)
        for share in line.calls:
            sums = recorded["upstream"][share.upstream]
            sums.delivered, sums.withheld = sums.delivered + share.delivered, sums.withheld + share.withheld
            sums.lost, sums.unconfirmed = sums.lost + share.lost, sums.unconfirmed + share.unconfirmed
            sums.usd_micros += (share.images - share.lost) * PRICES_BY_MODEL[line.model]
    for by, reported in observed.split_sums.items():
        for value in sorted(recorded[by].keys() | reported.keys()):
            ours, theirs = recorded[by][value], reported.get(value, Sums())
            if (replace(theirs, requests=0) if by == "upstream" else theirs) != ours:
                detail = f"{by} '{value}': records {ours}, usage {theirs}"
                yield Discrepancy(f"usage by {by} is not its records", detail)


PRICES_BY_MODEL: Final = {
    "image-01": 3500,
    "image-01-live": 4700,
    "far-image": 3500,
    "crowd-image": 3500,
    "steady-image": 3500,
}
"""Micro-dollars, by the gateway's model ID."""
