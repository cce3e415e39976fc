import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.domain.attribution import RequestFilter, TagFilter
from gateway.domain.billing import AccountOutcome, BatchLine, Timings
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import SPLITS, Group, GroupBy, LedgerEntry, TenantDay, UsageFilter, UsageReport, UsageTotals
from gateway.metering.ledger import Ledger
from gateway.metering.record_places import READINGS_MAX
from gateway.metering.record_sums import fill
from gateway.redis import connect
from tests.metering.desk import Desk
from tests.support.bookkeeping import TODAY, Settled, know, numbered, settle

pytestmark = pytest.mark.anyio

ALWAYS = UsageFilter(date(2020, 1, 1), date(2030, 1, 1))
CENTRES = {"acme": "4711", "b": "4711"}
ODD_MODELS = ("image-01", "a|b", "|", "||requests|", "модель 图 🖼", "=1+1", "x" * 128, " ")


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[tuple[Ledger, "redis.Redis"]]:
    client = connect(url, 5.0)
    try:
        with redis.Redis.from_url(url, decode_responses=True) as writer:
            yield Ledger(client), writer
    finally:
        await client.aclose()


async def pages(
    ledger: Ledger, by: tuple[GroupBy, ...], selection: UsageFilter = ALWAYS, limit: int = 1000
) -> tuple[list[tuple[Group, UsageTotals]], UsageTotals]:
    """All rows, page by page, and the total that the first page told."""
    tag = TagFilter("env") if GroupBy.TAG in by else None
    report = UsageReport(by, limit, wanted=RequestFilter(tag=tag))
    await fill(ledger, report, selection)
    rows, total = report.rows(), report.total
    while report.has_more:
        assert limit == len(report.rows())
        report = UsageReport(by, limit, rows[-1][0], total, RequestFilter(tag=tag))
        await fill(ledger, report, selection)
        assert total == report.total
        rows += report.rows()
    return rows, total


def summed(requests: Iterable[Settled]) -> UsageTotals:
    total = UsageTotals()
    for request in requests:
        total.add(request.amounts)
    return total


def grouped(requests: Iterable[Settled], by: tuple[GroupBy, ...]) -> list[tuple[Group, UsageTotals]]:
    """The plain model of a report."""
    of: dict[GroupBy, Callable[[Settled], str]] = {
        GroupBy.DAY: lambda request: str(request.day),
        GroupBy.HOUR: lambda request: f"{request.day}T12:00Z",
        GroupBy.TENANT: lambda request: request.tenant,
        GroupBy.MODEL: lambda request: request.model,
        GroupBy.KEY: lambda request: request.key,
        GroupBy.BATCH: lambda request: request.batch,
        GroupBy.MONTH: lambda request: f"{request.day:%Y-%m}",
        GroupBy.COST_CENTRE: lambda request: CENTRES.get(request.tenant, ""),
        GroupBy.OWNER: lambda request: f"owner of {request.tenant}" if request.tenant in CENTRES else "",
        GroupBy.USER: lambda request: request.user,
        GroupBy.CHARGE_CLASS: lambda _: "",  # no month is closed
        GroupBy.UPSTREAM: lambda request: request.calls.partition("/")[0],
        GroupBy.TAG: lambda request: f"env={json.loads(request.tags)['env']}" if request.tags else "",
    }
    found: dict[Group, list[Settled]] = {}
    for request in requests:
        found.setdefault(tuple(of[one](request) for one in by), []).append(request)
    return [(group, summed(found[group])) for group in sorted(found)]


async def export(ledger: Ledger, selection: UsageFilter = ALWAYS, limit: int = 1000) -> list[LedgerEntry]:
    page = await ledger.records(selection, None, limit)
    found = list(page.records)
    while page.end:
        page = await ledger.records(selection, page.end, limit)
        found += page.records
    return found


def calls_of(client: "redis.Redis") -> dict[str, int]:
    """How often each command ran since the last CONFIG RESETSTAT."""
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): numbers["calls"] for name, numbers in stats.items()}


def with_sums(request: Settled) -> Settled:
    """The request with the calls of its images, and in the sums of its tags and user."""
    summed = ["tag:env"] * bool(request.tags) + ["user"] * bool(request.user)
    images = (request.delivered, request.withheld, request.lost, request.unconfirmed)
    return replace(request, calls=f"sim/main:{','.join(map(str, images))}", summed=",".join(summed))


SETTLED = st.builds(
    Settled,
    tenant=st.sampled_from(["acme", "b", "c.d-e_f"]),
    day=st.sampled_from([date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 31), date(2026, 2, 1), date(2026, 7, 28)]),
    key=st.sampled_from(["k1", "k2"]),
    batch=st.sampled_from(["", "batch_1", "batch_2"]),
    model=st.sampled_from(ODD_MODELS),
    asked=st.integers(1, 10),
    delivered=st.integers(0, 9),
    withheld=st.integers(0, 9),
    lost=st.integers(0, 9),
    unconfirmed=st.integers(0, 9),
    usd_micros=st.integers(0, 10**12),
    tags=st.sampled_from(["", '{"env":"prod"}', '{"env":"a|b%7C%25=,;","x":"y"}']),
    user=st.sampled_from(["", "0123456789abcdef", "ann|b%"]),
).map(with_sums)
BY = st.lists(
    st.sampled_from(list(GroupBy)), min_size=1, max_size=4, unique_by=lambda one: "split" if one in SPLITS else one
).map(tuple)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SETTLED, max_size=30), BY, st.integers(1, 5), st.booleans())
async def test_reports_group_as_a_plain_model_does(
    each_redis: str, history: list[Settled], by: tuple[GroupBy, ...], limit: int, one_tenant: bool
) -> None:
    selection = UsageFilter(date(2026, 1, 1), date(2026, 6, 30), "b" if one_tenant else None)
    meant = [
        request
        for request in history
        if selection.first <= request.day <= selection.last and selection.tenant in {None, request.tenant}
    ]
    async with reading(each_redis) as (ledger, writer):
        writer.flushall()
        know(writer, "b")
        settle(writer, history)
        for name, centre in CENTRES.items():
            about = {"cost_centre": centre, "owner": f"owner of {name}"}
            writer.hset(f"ig3:{{{name}}}:tenant", "about", json.dumps(about))
        rows, total = await pages(ledger, by, selection, limit)
        assert (grouped(meant, by), summed(meant)) == (rows, total)
        assert len(meant) == await ledger.count(selection) == len(await export(ledger, selection, limit))


_SETTLE_MANY = """
for number = 1, ARGV[2] do
  redis.call('XADD', KEYS[1], '*', 'key_id', 'k1', 'model', 'image-01', 'asked', 1, 'delivered', 1, 'usd_micros', 3500)
end
for measure, amount in pairs({requests = 1, asked = 1, delivered = 1, usd_micros = 3500}) do
  redis.call('HINCRBY', KEYS[2], 'k1|' .. measure .. '|image-01', amount * ARGV[2])
end
redis.call('ZADD', KEYS[3], ARGV[1], ARGV[1])
"""


async def test_a_year_with_200_000_requests_is_reported_without_a_look_at_them(each_redis: str) -> None:
    first = date(2025, 8, 1)
    async with reading(each_redis) as (ledger, writer):
        know(writer, "acme")
        for number in range(365):
            day = (first + timedelta(days=number)).strftime("%Y%m%d")
            keys = [f"ig3:{{acme}}:{kind}" for kind in (f"ledger:{day}", f"sums:{day}", "days")]
            writer.eval(_SETTLE_MANY, 3, *keys, day, 548)
        writer.config_resetstat()
        rows, total = await pages(ledger, (GroupBy.DAY,), UsageFilter(first, first + timedelta(days=364)))
        calls = calls_of(writer)
    assert (365, 365 * 548, 365 * 548 * 3500) == (len(rows), total.requests, total.usd_micros)
    assert {"smembers": 1, "zcount": 1, "zrangebyscore": 1, "hlen": 365} == {
        name: count for name, count in calls.items() if name in {"smembers", "zcount", "zrangebyscore", "hlen"}
    }
    assert set() == {name for name in calls if name.startswith("x")}
    assert 365 == calls["hgetall"] + calls.get("hscan", 0)


async def test_a_later_page_reads_no_more_than_its_own_days(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled(day=TODAY - timedelta(days=number)) for number in range(1000)])
        report = UsageReport((GroupBy.DAY,), 10)
        await ledger.fill(report, ALWAYS)
        later = UsageReport((GroupBy.DAY,), 10, report.rows()[-1][0], report.total)
        writer.config_resetstat()
        await ledger.fill(later, ALWAYS)
        assert 100 >= calls_of(writer)["hlen"]
    assert (1000, True, 10) == (later.total.requests, later.has_more, len(later.rows()))


@pytest.mark.parametrize("by", [GroupBy.DAY, GroupBy.TENANT])
async def test_rows_that_come_while_pages_are_read_repeat_and_lose_none(each_redis: str, by: GroupBy) -> None:
    """What was there at the beginning comes exactly once, whatever comes before, between and behind it."""
    days = [date(2026, 3, number) for number in range(1, 30, 2)]
    history = [Settled(tenant=f"t{day.day:02}", day=day) for day in days]
    async with reading(each_redis) as (ledger, writer):
        settle(writer, history)
        report = UsageReport((by,), 4)
        await ledger.fill(report, ALWAYS)
        rows = report.rows()
        while report.has_more:
            known = len(rows)
            more = date(2026, 3, 2 * known % 30 + 2)
            settle(writer, [Settled(tenant="t00", day=date(2026, 2, 1)), Settled(tenant=f"t{more.day:02}", day=more)])
            report = UsageReport((by,), 4, rows[-1][0], report.total)
            await ledger.fill(report, ALWAYS)
            rows += report.rows()
    found = [group for group, _ in rows]
    assert sorted(set(found)) == found
    assert set() == {group for group, _ in grouped(history, (by,))} - set(found)


async def test_sums_of_very_many_keys_and_models_are_read_in_pieces(each_redis: str) -> None:
    """7,000 fields of one day are more than one call asks for."""
    async with reading(each_redis) as (ledger, writer):
        history = [Settled(key=f"k{number:04}", usd_micros=number + 1) for number in range(1750)]
        settle(writer, [*history, Settled(tenant="b"), Settled(tenant="c")])
        writer.config_resetstat()
        rows, total = await pages(ledger, (GroupBy.KEY,), replace(ALWAYS, tenant="acme"), 5000)
        assert (grouped(history, (GroupBy.KEY,)), summed(history)) == (rows, total)
        assert 1 < calls_of(writer)["hscan"]
        assert 3 == len((await pages(ledger, (GroupBy.TENANT,)))[0])


async def test_many_tenants_cost_few_round_trips(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled(tenant=f"t{number:04}") for number in range(1000)])
        round_trips = 0
        each = ledger._each

        async def counted(*arguments: object) -> object:
            nonlocal round_trips
            round_trips += 1
            return await each(*arguments)  # type: ignore[arg-type]

        ledger._each = counted  # type: ignore[assignment]
        rows, total = await pages(ledger, (GroupBy.TENANT,))
    assert (1000, 1000) == (len(rows), total.requests)
    assert 40 == round_trips


async def test_a_disabled_tenant_and_one_of_the_past_are_reported_too(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled(tenant="gone")])
        writer.hset("ig3:{gone}:tenant", mapping={"disabled": "1", "models": ""})
        assert [(("gone",), Settled().amounts)] == (await pages(ledger, (GroupBy.TENANT,)))[0]


async def test_nothing_is_an_empty_report(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        assert ([], UsageTotals()) == await pages(ledger, (GroupBy.DAY,))
        assert [] == await export(ledger)
        know(writer, "acme")
        assert ([], UsageTotals()) == await pages(ledger, (GroupBy.DAY,), replace(ALWAYS, tenant="acme"))
        assert 0 == await ledger.count(ALWAYS)


@pytest.mark.parametrize("name", ["nobody", "", "{acme}", "*", "x" * 500, "a\x00b"])
async def test_an_unknown_tenant_is_not_found(each_redis: str, name: str) -> None:
    selection = replace(ALWAYS, tenant=name)
    async with reading(each_redis) as (ledger, writer):
        know(writer, "acme")
        for call in (pages(ledger, (GroupBy.DAY,), selection), export(ledger, selection), ledger.count(selection)):
            with pytest.raises(GatewayError) as refused:
                await call
            assert (ErrorCode.NOT_FOUND, "tenant") == (refused.value.error_code, refused.value.param)


async def test_a_measure_of_a_later_version_is_passed_over(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled()])
        writer.hset("ig3:{acme}:sums:20260728", mapping={"key1|pixels|image-01": "9", "key1": "9", "": "9"})
        assert [((str(TODAY),), Settled().amounts)] == (await pages(ledger, (GroupBy.DAY,)))[0]


async def test_a_record_is_told_whole(each_redis: str) -> None:
    settled = Settled(
        tenant="b",
        model="a|b",
        asked=5,
        delivered=2,
        withheld=1,
        lost=1,
        unconfirmed=1,
        usd_micros=10_501,
        calls="sim/main:1,1,0,0;other.one/a-b:1,0,1,1",
        admitted_ms=1_785_200_000_123,
    )
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [settled])
        [record] = await export(ledger)
    assert record == LedgerEntry(
        "t1",
        1_785_200_000_123,
        "req_1",
        "b",
        "key1",
        "a|b",
        UsageTotals(1, 5, 2, 1, 1, 1, 10_501),
        3500,
        "delivered",
        {
            ("sim", "main"): AccountOutcome(delivered=1, withheld=1, cost=None),
            ("other.one", "a-b"): AccountOutcome(delivered=1, lost=1, unconfirmed=1, cost=None),
        },
        Timings(1, 20, 22),
    )


async def test_a_record_of_a_line_names_its_batch(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled(batch="batch_1", request_id="a"), Settled(request_id="b")])
        assert [BatchLine("batch_1", "a"), None] == [record.line for record in await export(ledger)]


async def test_a_batch_whose_sums_have_expired_counts_as_other_requests(each_redis: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [Settled(batch="batch_1"), Settled()])
        writer.delete("ig3:{acme}:batch_sums:20260728")
        rows, _ = await pages(ledger, (GroupBy.BATCH,))
        assert [("", 2)] == [(batch, sums.requests) for (batch,), sums in rows]


@pytest.mark.parametrize("corrects", ["x", "1", "-", "1-x 5-0", "9" * 30])
async def test_a_damaged_mark_of_a_correction_hides_no_record(each_redis: str, corrects: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        writer.xadd("ig3:{acme}:ledger:20260728", Settled().fields() | {"corrects": corrects})  # type: ignore[arg-type]
        settle(writer, numbered(Settled(), 2))
        assert 3 == len(await export(ledger, limit=1))


@pytest.mark.parametrize("calls", ["", ";", "x", "a/b:", "a/b:x,y", "a/b:1", ":::", "a/b:1,2,3,4,5"])
async def test_a_damaged_record_is_still_told(each_redis: str, calls: str) -> None:
    async with reading(each_redis) as (ledger, writer):
        settle(writer, [replace(Settled(), calls=calls)])
        writer.xadd("ig3:{acme}:ledger:20260728", {"asked": "x", "delivered": "1e9", "usd_micros": "", "total_ms": "²"})
        whole, damaged = await export(ledger)
    assert ("req_1", UsageTotals(1)) == (whole.request_id, damaged.amounts)


@pytest.mark.parametrize(("limit", "most"), [(1, 20), (7, 600), (249, 600), (250, 600), (251, 600), (1000, 600)])
async def test_records_come_by_day_then_tenant_then_age_whatever_the_page(
    each_redis: str, limit: int, most: int
) -> None:
    """Sheets of none, one, some, exactly a call's and many records beside each other."""
    sizes = [min(size, most) for size in (600, 0, 3, 250, 2, 1, 1, 251)]
    history: list[Settled] = []
    for number, size in enumerate(sizes):
        sheet = Settled(tenant="b" if number % 2 else "acme", day=date(2026, 2, 27) + timedelta(days=number // 2))
        history += numbered(sheet, size, len(history))
    async with reading(each_redis) as (ledger, writer):
        settle(writer, history)
        found = await export(ledger, limit=limit)
        assert len(history) == await ledger.count(ALWAYS)
    expected = sorted(history, key=lambda request: (request.day, request.tenant))
    assert [request.request_id for request in expected] == [record.request_id for record in found]


async def test_every_record_comes_exactly_once_while_new_ones_arrive(each_redis: str) -> None:
    before = [
        request
        for number, tenant in enumerate("abcd" * 3)
        for request in numbered(Settled(tenant=tenant, day=TODAY - timedelta(days=number % 3)), 40, 40 * number)
    ]
    arrived = 0
    async with reading(each_redis) as (ledger, writer):
        settle(writer, before)

        def arrive() -> None:
            nonlocal arrived
            for tenant in "abcde":
                settle(writer, numbered(Settled(tenant=tenant, day=TODAY - timedelta(days=1)), 3, 10_000 + arrived))
                arrived += 3

        page = await ledger.records(ALWAYS, None, 37)
        found = list(page.records)
        while page.end:
            arrive()
            page = await ledger.records(ALWAYS, page.end, 37)
            found += page.records
    times = Counter(record.request_id for record in found)
    assert {1} == set(times.values())
    assert set() == {request.request_id for request in before} - set(times)


def settled_by_expiry(writer: "redis.Redis", count: int) -> tuple[Desk, list[str]]:
    """So many requests of processes that died, whose answers may still come."""
    know(writer, "acme")
    desk = Desk(writer, time.time())
    reservations = [f"t{number}" for number in range(count)]
    for reservation in reservations:
        desk.admit(reservation, 9)
        desk.send(reservation, 9)
    desk.clock.advance(61)
    assert {"settled"} == {desk.expire(reservation) for reservation in reservations}
    return desk, reservations


@pytest.mark.parametrize("limit", [1, 2, 5, 13])
async def test_every_record_comes_exactly_once_while_late_answers_correct_some(redis_url: str, limit: int) -> None:
    """A corrected record moves to the end: there it is given if it moved before it was met, and not again after."""
    dice = random.Random(limit)
    async with reading(redis_url) as (ledger, writer):
        desk, reservations = settled_by_expiry(writer, 60)
        page = await ledger.records(ALWAYS, None, limit)
        found = list(page.records)
        while page.end:
            for _ in range(dice.randrange(3)):
                delivered = dice.randint(0, 9)
                desk.settle(dice.choice(reservations), f"u/a:{delivered},0,{9 - delivered},0")
            page = await ledger.records(ALWAYS, page.end, limit)
            found += page.records
            assert len(found) <= 60
    assert dict.fromkeys(reservations, 1) == Counter(record.reservation for record in found)


async def test_a_record_that_moves_while_one_page_is_read_comes_once(redis_url: str) -> None:
    async with reading(redis_url) as (ledger, writer):
        desk, reservations = settled_by_expiry(writer, 600)
        pieces = ledger._pieces

        async def disturbed(sheet: TenantDay, after: str | None) -> AsyncIterator[object]:
            async for piece in pieces(sheet, after):
                yield piece
                for reservation in ("t10", "t590"):
                    desk.settle(reservation, f"u/a:{dice.randint(0, 9)},0,0,0")

        dice = random.Random(1)
        ledger._pieces = disturbed  # type: ignore[method-assign, assignment]
        found = await export(ledger, limit=1000)
    assert dict.fromkeys(reservations, 1) == Counter(record.reservation for record in found)


async def test_a_place_remembers_a_bounded_number_of_readings(redis_url: str) -> None:
    async with reading(redis_url) as (ledger, writer):
        settle(writer, numbered(Settled(), 100))
        place, kept = None, []
        for number in range(90):
            place = (await ledger.records(ALWAYS, place, 1)).end
            assert place
            kept.append(len(place.readings))
            if number >= 44:
                settle(writer, numbered(Settled(), 1, 1000 + number))
    assert ({1}, READINGS_MAX) == (set(kept[:45]), kept[-1])


async def test_reports_and_settlements_do_not_disturb_each_other(each_redis: str) -> None:
    """Whole requests only: a report read at any moment has as many images as requests of one image each."""
    keys = [f"ig3:{{acme}}:{kind}" for kind in ("ledger:20260728", "sums:20260728", "days")]
    async with reading(each_redis) as (ledger, writer):
        know(writer, "acme")
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await asyncio.to_thread(writer.eval, _SETTLE_MANY, 3, *keys, "20260728", 3)

        task = asyncio.create_task(write())
        totals = [(await pages(ledger, (GroupBy.MODEL,)))[1] for _ in range(50)]
        stop.set()
        await task
    assert [total.requests for total in totals] == [total.delivered for total in totals]
    assert totals[0].requests < totals[-1].requests


async def test_redis_away_is_said(tmp_path: Path) -> None:
    client = connect(f"unix://{tmp_path}/none.sock", 0.5)
    ledger = Ledger(client)
    for call in (
        pages(ledger, (GroupBy.DAY,)),
        export(ledger),
        ledger.count(ALWAYS),
        ledger.sums([TenantDay(TODAY, "a")]),
    ):
        with pytest.raises(GatewayError) as refused:
            await call
        assert ErrorCode.REDIS_UNAVAILABLE is refused.value.error_code
    await client.aclose()
