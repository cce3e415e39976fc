"""Month close: what was billed stays, what is settled late is a correction, and exports add up to the micro-dollar."""

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
import redis

from gateway.domain.attribution import Attribution
from gateway.domain.audit import Actor
from gateway.domain.calendar import Calendar
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.focus import FOCUS_COLUMNS
from gateway.domain.usage import GroupBy, Reconciliation, UsageFilter, UsageReport
from gateway.metering.closing import CLOSED_BY, Closing, MonthCloser
from gateway.metering.exports import Exports
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier
from gateway.tenants.transactions import TenantTransactions
from tests.metering.desk import Desk
from tests.support.admissions import connected
from tests.support.bookkeeping import Settled, know, settle

pytestmark = pytest.mark.anyio

NOON_S: Final = datetime(2026, 7, 28, 12, tzinfo=UTC).timestamp()
AUGUST_S: Final = datetime(2026, 8, 2, 12, tzinfo=UTC).timestamp()
JULY: Final = UsageFilter(date(2026, 7, 1), date(2026, 7, 31))
AUGUST: Final = UsageFilter(date(2026, 8, 1), date(2026, 8, 31))
BOTH: Final = UsageFilter(date(2026, 7, 1), date(2026, 8, 31))
PROD: Final = Attribution({"env": "prod"}, "0123456789abcdef", ("tag:env", "user"))
FINANCE: Final = Actor("finance", "req_1")


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        know(client, "acme")
        yield client


class Office:
    """The exports and the closer of one gateway."""

    def __init__(self, client: Any, clock: Any, calendar: Calendar) -> None:
        self.ledger = Ledger(client)
        self.verifier = LedgerVerifier(self.ledger, 400, lambda: float(clock.now_s), calendar=calendar)
        self.exports = Exports(self.ledger, "Example AG", calendar)
        transactions = TenantTransactions(client, lambda _: None, 86_400)
        self.closer = MonthCloser(client, self.exports, self.verifier, transactions, lambda: float(clock.now_s))

    async def close(self, *, is_dry_run: bool = False) -> Closing:
        return await self.closer.close(JULY.first, FINANCE, is_dry_run=is_dry_run)

    async def text(self, chosen: UsageFilter) -> str:
        return "".join([line async for line in self.exports.focus(chosen)])

    async def rows(self, chosen: UsageFilter) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(await self.text(chosen), newline="")))

    async def csv(self, chosen: UsageFilter, *by: GroupBy) -> str:
        return "".join([line async for line in self.exports.csv(chosen, by)])

    async def total(self, chosen: UsageFilter) -> int:
        report = UsageReport((GroupBy.DAY,), 1000)
        await self.ledger.fill(report, chosen)
        return report.total.usd_micros


@asynccontextmanager
async def office(url: str, desk: Desk) -> Any:
    async with connected(url) as client:
        yield Office(client, desk.clock, desk.calendar)


def buy(desk: Desk, name: str, calls: str = "u/a:1,0,0,0", cost: int = 3500, images: int = 1) -> None:
    desk.admit(name, images, attribution=PROD, cost=cost)
    desk.send(name, images)
    if calls:
        desk.settle(name, calls)


def micros(rows: list[dict[str, str]]) -> int:
    return int(sum(Decimal(row["BilledCost"]) for row in rows) * 1_000_000)


def check_prices(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for unit, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert Decimal(row[cost]) == Decimal(row[unit]) * Decimal(row["PricingQuantity"]), row
        assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"]


async def test_a_focus_export_adds_up_across_a_price_change_and_a_correction(each_redis: str) -> None:
    with redis.Redis.from_url(each_redis, decode_responses=True) as client:
        know(client, "acme")
        desk = Desk(client, NOON_S)
        client.hset("ig3:{acme}:tenant", "about", json.dumps({"cost_centre": "4711", "tags": {"team": "ads"}}))
        buy(desk, "r1", "u/a:3,0,0,0", 3 * 3500, 3)
        buy(desk, "r2", cost=4000)
        buy(desk, "tokens", "u/a:2,0,0,0", 11, 3)  # 7.33 for two of three: no price of an image
        buy(desk, "late", "")
        desk.clock.advance(120)
        assert "settled" == desk.expire("late")
        desk.clock.set(AUGUST_S)
        async with office(each_redis, desk) as at:
            closing = await at.close()
            july, before = await at.rows(JULY), await at.text(JULY)
            assert (18_007, 18_007, "0.018007") == (micros(july), await at.total(JULY), closing.total["usd"])
            desk.settle("late")  # its process comes back: nothing was made
            buy(desk, "r3", cost=4000)
            assert before == await at.text(JULY)
            august = await at.rows(AUGUST)
            assert 500 == micros(august) == await at.total(AUGUST)
            assert 18_507 == micros(july + august) == await at.total(BOTH)
            check_prices(july + august)
            assert Reconciliation(days=2, records=6) == (await at.verifier.verify(BOTH))[0]
        assert [("", "0.004", "1"), ("Correction", "0.0035", "-1")] == sorted(
            (row["ChargeClass"], row["ListUnitPrice"], row["PricingQuantity"]) for row in august
        )
        [correction] = [row for row in august if row["ChargeClass"]]
        period = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
        assert ["2026-08-01", "2026-09-01", "2026-07-28", "2026-07-29"] == [correction[name][:10] for name in period]
        assert ["Images", "Images", "USD"] == sorted(row["PricingUnit"] for row in july)
        assert {'{"cost_centre":"4711","team":"ads"}'} == {row["Tags"] for row in july}


MANDATORY: Final = (
    *("BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory"),
    *("ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost"),
    *("ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
)
NULLABLE: Final = ("BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit")


async def test_a_focus_row_has_every_mandatory_column_and_null_is_empty(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    async with office(redis_url, desk) as at:
        [row] = await at.rows(JULY)
    assert {*MANDATORY, *NULLABLE} <= {*FOCUS_COLUMNS} == {*row}
    assert all(row[name] for name in MANDATORY)
    assert ["ChargeClass", "Tags"] == [name for name, text in row.items() if not text]
    assert all(name.startswith("x_") for name in FOCUS_COLUMNS[-5:])
    expected = {"SubAccountId": "acme", "SubAccountName": "acme", "BillingAccountId": "Example AG", "ResourceId": "k1"}
    expected |= {"ChargePeriodStart": "2026-07-28T00:00:00Z", "BilledCost": "0.0035", "PricingQuantity": "1"}
    assert expected.items() <= row.items()


@pytest.mark.parametrize(
    ("first", "second", "moved"),
    [
        ("", "u/a:1,0,0,0", (0, 1, -3500)),  # both were charged as unconfirmed
        ("", "", (0, 0, -7000)),
        ("u/a:1,0,0,0", "v/b:0,0,1,0", (0, -1, -3500)),
        ("u/a:1,0,0,0;v/a:0,0,1,0", "v/a:2,0,0,0", (0, 1, 3500)),
    ],
)
async def test_what_is_settled_after_the_close_is_a_correction_of_the_present_day(
    books: "redis.Redis", redis_url: str, first: str, second: str, moved: tuple[int, int, int]
) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1", first, 7000, 2)
    if not first:
        desk.clock.advance(120)
        desk.expire("r1")
    books.persist("ig3:{acme}:reservation:r1")
    desk.clock.set(AUGUST_S)
    async with office(redis_url, desk) as at:
        await at.close()
        before = [await at.text(JULY), await at.csv(JULY, *CLOSED_BY)]
        desk.settle("r1", second)
        assert before == [await at.text(JULY), await at.csv(JULY, *CLOSED_BY)]
        by_class = await at.csv(AUGUST, GroupBy.CHARGE_CLASS)
        [_, line] = by_class.splitlines()
        assert line.startswith("Correction,")
        report = UsageReport((GroupBy.DAY,), 10)
        await at.ledger.fill(report, AUGUST)
        total = report.total
        assert moved == (total.requests, total.delivered, total.usd_micros)
        assert Reconciliation(days=2, records=2) == (await at.verifier.verify(BOTH))[0]
        desk.settle("r1", "u/a:2,0,0,0")  # and once more
        assert 7000 == await at.total(BOTH)
        assert Reconciliation(days=2, records=3) == (await at.verifier.verify(BOTH))[0]
        assert before == [await at.text(JULY), await at.csv(JULY, *CLOSED_BY)]


@pytest.mark.parametrize(
    ("name", "opens", "corrected"),
    [
        ("Pacific/Auckland", "2026-07-31T13:00:00Z", "20260802"),
        ("Pacific/Pago_Pago", "2026-08-01T12:00:00Z", "20260801"),
    ],
)
async def test_a_month_is_closed_and_corrected_by_the_days_of_its_time_zone(
    books: "redis.Redis", redis_url: str, name: str, opens: str, corrected: str
) -> None:
    opens_s = datetime.fromisoformat(opens).timestamp()
    desk = Desk(books, NOON_S)
    desk.calendar = Calendar(name, ZoneInfo(name))
    buy(desk, "r1", "", 7000, 2)
    desk.clock.advance(120)
    desk.expire("r1")
    async with office(redis_url, desk) as at:
        desk.clock.set(opens_s - 1)
        with pytest.raises(GatewayError, match=f"can be closed from {opens}"):
            await at.close()
        desk.clock.set(opens_s)
        await at.close()
        before = await at.text(JULY)
        desk.clock.set(datetime(2026, 8, 2, 9, tzinfo=UTC).timestamp())  # 21:00 in Auckland, 22:00 before in Pago Pago
        desk.settle("r1", "u/a:1,0,0,0")
        assert before == await at.text(JULY)
        [row] = await at.rows(AUGUST)
        assert Reconciliation(days=2, records=2) == (await at.verifier.verify(BOTH))[0]
    day = date.fromisoformat(corrected)
    assert 1 == books.xlen(f"ig3:{{acme}}:ledger:{corrected}")
    assert str(desk.calendar.end_s(day) + 3660 * 86_400) == books.hget("ig3:{acme}:records_end", corrected)
    starts = [desk.calendar.start(date(2026, month, 1)) for month in (8, 9)]
    period = ("BillingPeriodStart", "BillingPeriodEnd")
    assert [f"{start:%Y-%m-%dT%H:%M:%SZ}" for start in starts] == [row[name] for name in period]
    assert "-0.0035" == row["BilledCost"]


async def test_a_request_that_slipped_through_is_billed_whole_in_the_next_period(
    books: "redis.Redis", redis_url: str
) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    buy(desk, "open", "")
    books.hset("ig3:{acme}:closed", "202607", "{}")
    desk.clock.set(AUGUST_S)
    desk.settle("open", "u/a:1,0,0,0")
    async with office(redis_url, desk) as at:
        assert (3500, 3500) == (await at.total(JULY), await at.total(AUGUST))
        [row] = await at.rows(AUGUST)
        assert ("Correction", "1", "1") == (row["ChargeClass"], row["PricingQuantity"], row["x_Requests"])
        assert Reconciliation(days=2, records=2) == (await at.verifier.verify(BOTH))[0]


async def test_a_close_stores_its_proof_once_and_is_audited(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    books.hset("ig3:{acme}:tenant", "about", json.dumps({"cost_centre": "4711"}))
    buy(desk, "r1")
    desk.clock.set(AUGUST_S)
    async with office(redis_url, desk) as at:
        dry = await at.close(is_dry_run=True)
        assert ([], {}) == (await at.closer.closings(), books.hgetall("ig3:{acme}:closed"))
        closing = await at.close()
        assert [closing] == await at.closer.closings()
        assert (dry.focus_sha256, dry.csv_sha256, dry.total) == (
            closing.focus_sha256,
            closing.csv_sha256,
            closing.total,
        )
        assert ("2026-07", "finance", 1, 1) == (closing.month, closing.closed_by, closing.tenants, closing.records)
        entries: Any = books.xrange("ig3:{acme}:audit")
        [(_, entry)] = entries
        assert ("usage.close", '{"month":"2026-07"}') == (entry["action"], entry["after"])
        with pytest.raises(GatewayError, match="is closed since 2026-08-02 by 'finance'"):
            await at.close()
        before = [await at.text(JULY), await at.csv(JULY, GroupBy.COST_CENTRE)]
        books.hset("ig3:{acme}:tenant", "about", json.dumps({"cost_centre": "0815"}))
        assert before == [await at.text(JULY), await at.csv(JULY, GroupBy.COST_CENTRE)]
        assert "4711" in before[1]


async def test_a_close_that_was_cut_off_is_repeated(books: "redis.Redis", redis_url: str) -> None:
    know(books, "b")
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    books.hset("ig3:{acme}:closed", "202607", "{}")
    desk.clock.set(AUGUST_S)
    async with office(redis_url, desk) as at:
        await at.close()
        assert ["2026-07"] == [one.month for one in await at.closer.closings()]
    assert not books.exists("ig3:{acme}:audit")


@pytest.mark.parametrize("problem", ["present", "open", "differs", "expired"])
async def test_a_month_is_not_closed_while_it_is_not_right(books: "redis.Redis", redis_url: str, problem: str) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    message = {
        "present": "2026-07 is not over: it can be closed from 2026-08-01T01:00:00Z",
        "open": "2026-07 has 1 requests that are not settled, by tenant: acme 1",
        "differs": "totals and records differ in 1 places, first in delivered of tenant 'acme' on 2026-07-28",
        "expired": "records of some days have expired",
    }[problem]
    if problem == "open":
        buy(desk, "r2", "")
    desk.clock.set(AUGUST_S - (86_400 * 2 if problem == "present" else 0))
    if problem == "differs":
        books.hincrby("ig3:{acme}:sums:20260728", "k1|delivered|m", 1)
    if problem == "expired":
        books.delete("ig3:{acme}:ledger:20260728", "ig3:{acme}:split_sums:20260728")
        books.hset("ig3:{acme}:records_end", "20260728", round(NOON_S))
    async with office(redis_url, desk) as at:
        with pytest.raises(GatewayError, match=message.replace("[", r"\[")):
            await at.close()
        assert [] == await at.closer.closings()
    assert not books.exists("ig3:{acme}:closed")


async def test_an_open_request_of_the_next_month_does_not_hinder_a_close(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    desk.clock.set(AUGUST_S)
    buy(desk, "r2", "")
    async with office(redis_url, desk) as at:
        assert 1 == (await at.close()).records


async def test_no_focus_export_is_made_of_records_that_prove_nothing(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    books.delete("ig3:{acme}:ledger:20260728")
    async with office(redis_url, desk) as at:
        with pytest.raises(GatewayError, match="The records of tenant 'acme' on 2026-07-28 are gone"):
            await at.text(JULY)


@pytest.mark.parametrize("by", [(GroupBy.KEY,), (GroupBy.DAY, GroupBy.KEY), (GroupBy.TENANT, GroupBy.KEY)])
async def test_every_row_of_a_report_is_in_its_csv_once_and_in_order(
    books: "redis.Redis", redis_url: str, by: tuple[GroupBy, ...]
) -> None:
    days = (date(2026, 7, 27), date(2026, 7, 28))
    settle(
        books, [Settled(tenant=name, key=f"k{key}", day=day) for name in ("a", "b") for key in range(5) for day in days]
    )
    async with connected(redis_url) as client:
        paged, whole = (Exports(Ledger(client), "x", rows_per_page=rows) for rows in (2, 1000))
        texts = ["".join([line async for line in one.csv(JULY, by)]) for one in (paged, whole)]
    assert texts[0] == texts[1]
    assert (10 if by[1:] else 5) + 1 == texts[0].count("\r\n")


async def test_of_two_closes_at_once_one_is_stored(books: "redis.Redis", redis_url: str) -> None:
    desk = Desk(books, NOON_S)
    buy(desk, "r1")
    desk.clock.set(AUGUST_S)
    async with office(redis_url, desk) as one, office(redis_url, desk) as other:
        done = await asyncio.gather(one.close(), other.close(), return_exceptions=True)
        closings = await one.closer.closings()
    assert closings == [closing for closing in done if isinstance(closing, Closing)]
    assert [ErrorCode.CONFLICT] == [error.error_code for error in done if isinstance(error, GatewayError)]
    assert 1 == books.xlen("ig3:{acme}:audit")


async def test_what_is_settled_during_a_close_is_billed_once_in_one_of_both_periods(
    books: "redis.Redis", redis_url: str
) -> None:
    desk = Desk(books, NOON_S)
    names = [f"r{number}" for number in range(40)]
    for name in names:
        buy(desk, name, "")
    desk.clock.advance(120)
    for name in names:
        desk.expire(name)
        books.persist(f"ig3:{{acme}}:reservation:{name}")
    desk.clock.set(AUGUST_S)

    def settle_all() -> None:
        for name in names:
            desk.settle(name, "u/a:1,0,0,0" if name.endswith("5") else "")

    async with office(redis_url, desk) as at:
        settling = asyncio.create_task(asyncio.to_thread(settle_all))
        with suppress(GatewayError):  # they were settled during the comparison
            await at.close()
        await settling
        if not (closings := await at.closer.closings()):
            closings = [await at.close()]
        assert 4 * 3500 == await at.total(BOTH)
        assert [] == (await at.verifier.verify(BOTH))[0].differences
        assert closings[0].focus_sha256 == hashlib.sha256((await at.text(JULY)).encode()).hexdigest()
        assert micros(await at.rows(BOTH)) == 4 * 3500
