import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import redis

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import Discrepancy, GroupBy, Reconciliation, TenantDay, UsageFilter, UsageReport
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier
from gateway.redis import connect
from tests.metering.desk import Desk
from tests.support.admissions import buy
from tests.support.admitting import admitting, put_tenant
from tests.support.asking import connected
from tests.support.bookkeeping import TODAY, Settled, know, numbered, settle

pytestmark = pytest.mark.anyio

ALWAYS = UsageFilter(date(2020, 1, 1), date(2030, 1, 1))
KEEP_DAYS = 30
NOON = datetime(2026, 7, 28, 12, tzinfo=UTC).timestamp()
SHEET = TenantDay(TODAY, "acme")
RECORDS = "ig3:{acme}:ledger:20260728"
SUMS = "ig3:{acme}:sums:20260728"


@asynccontextmanager
async def verifying(url: str, now: float = NOON) -> AsyncIterator[tuple[LedgerVerifier, "redis.Redis"]]:
    client = connect(url, 5.0)
    try:
        with redis.Redis.from_url(url, decode_responses=True) as writer:
            yield LedgerVerifier(Ledger(client), KEEP_DAYS, lambda: now), writer
    finally:
        await client.aclose()


async def everything(verifier: LedgerVerifier, selection: UsageFilter = ALWAYS) -> Reconciliation:
    """Every call's findings together."""
    total, after = await verifier.verify(selection)
    while after:
        found, after = await verifier.verify(selection, after)
        total.days += found.days
        total.records += found.records
        total.expired_days += found.expired_days
        total.busy_days += found.busy_days
        total.differences += found.differences
    return total


KEYED = Settled(idempotency="k1")


@pytest.mark.parametrize(
    ("second", "purchases"),
    [
        (KEYED, 1),
        (replace(KEYED, delivered=0, unconfirmed=1, key="key2"), 1),
        (replace(KEYED, delivered=0, usd_micros=0, outcome="refused"), 0),
        (replace(KEYED, idempotency="k2"), 0),
        (replace(KEYED, idempotency=""), 0),
        (replace(KEYED, tenant="b"), 0),
        (replace(KEYED, admitted_ms=int(NOON * 1000) + 3_600_000), 0),
        (replace(KEYED, admitted_ms=int(NOON * 1000) + 3_599_000), 1),
    ],
)
async def test_a_key_that_bought_twice_is_found(redis_url: str, second: Settled, purchases: int) -> None:
    async with verifying(redis_url) as (verifier, writer):
        hourly = LedgerVerifier(verifier._ledger, KEEP_DAYS, lambda: NOON, key_retention_s=3600)
        settle(writer, [KEYED, replace(second, reservation="t2")])
        found = await everything(hourly)
    assert [("purchases", 1, 2)] * purchases == [
        (one.measure, one.in_sums, one.in_records) for one in found.differences
    ]


async def test_a_line_of_a_batch_that_bought_twice_is_found(redis_url: str) -> None:
    async with verifying(redis_url) as (verifier, writer):
        settle(writer, [Settled(batch="b"), Settled(batch="b", reservation="t2"), Settled(batch="b", request_id="r2")])
        found = await everything(verifier)
    assert [("purchases", "b")] == [(one.measure, one.batch_id) for one in found.differences]


async def test_right_books_have_no_difference(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(), 300))
        settle(writer, numbered(Settled(key="k2", model="a|b|requests", delivered=0, usd_micros=0), 10))
        settle(writer, [Settled(tenant="b", day=TODAY - timedelta(days=1), withheld=3, asked=4)])
        assert Reconciliation(days=2, records=311) == await everything(verifier)
        assert Reconciliation(days=1, records=310) == await everything(verifier, replace(ALWAYS, tenant="acme"))
        assert Reconciliation(days=1, records=1) == await everything(
            verifier, UsageFilter(ALWAYS.first, date(2026, 7, 27))
        )


async def test_no_books_have_no_difference(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        assert Reconciliation() == await everything(verifier)
        know(writer, "acme")
        assert Reconciliation() == await everything(verifier)


@pytest.mark.parametrize("change", [-1, 1, 1000])
@pytest.mark.parametrize("measure", ["requests", "asked", "delivered", "usd_micros"])
async def test_a_sum_that_is_off_is_found(each_redis: str, measure: str, change: int) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(usd_micros=1), 5))
        writer.hincrby(SUMS, f"key1|{measure}|image-01", change)
        found = await everything(verifier)
    expected = Discrepancy(SHEET, "key1", "image-01", measure, 5 + change, 5)
    assert Reconciliation(days=1, records=5, differences=[expected]) == found


async def test_lines_of_batches_have_no_difference(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(batch="batch_1"), Settled(batch="batch_2", withheld=1), Settled(), Settled(key="k2")])
        assert Reconciliation(days=1, records=4) == await everything(verifier)


async def test_a_sum_of_a_batch_that_is_off_is_found_there_and_in_the_others(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(batch="batch_1"), Settled()])
        writer.hincrby("ig3:{acme}:batch_sums:20260728", "batch_1|key1|delivered|image-01", 1)
        found = await everything(verifier)
    others, batch = (0, 1, ""), (2, 1, "batch_1")
    assert found.differences == [Discrepancy(SHEET, "key1", "image-01", "delivered", *one) for one in (others, batch)]


async def test_a_record_that_is_missing_is_found(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(), 2))
        writer.xtrim(RECORDS, maxlen=1, approximate=False)
        found = await everything(verifier)
    expected = [("requests", 2, 1), ("asked", 2, 1), ("delivered", 2, 1), ("usd_micros", 7000, 3500)]
    assert [Discrepancy(SHEET, "key1", "image-01", *values) for values in expected] == found.differences


async def test_a_record_that_is_in_no_sum_is_found(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(model="a|b")])
        settle(writer, [Settled(key="k2", usd_micros=0)], with_sums=False)
        found = await everything(verifier)
    names = ("requests", "asked", "delivered")
    assert [Discrepancy(SHEET, "k2", "image-01", name, 0, 1) for name in names] == found.differences


async def test_records_whose_sums_are_gone_are_found(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(usd_micros=0)])
        writer.delete(SUMS, "ig3:{acme}:days")
        found = await everything(verifier)
    names = ("requests", "asked", "delivered")
    assert [Discrepancy(SHEET, "key1", "image-01", name, 0, 1) for name in names] == found.differences


async def test_a_damaged_record_is_a_difference(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled()])
        writer.xadd(RECORDS, {"key_id": "key1", "model": "image-01", "asked": "many"})
        found = await everything(verifier)
    assert [Discrepancy(SHEET, "key1", "image-01", "requests", 1, 2)] == found.differences


@pytest.mark.parametrize(
    ("age_days", "is_expired"), [(0, False), (1, False), (KEEP_DAYS - 1, False), (KEEP_DAYS + 1, True), (400, True)]
)
async def test_records_that_are_gone_are_missing_within_their_time_and_expired_after(
    each_redis: str, *, age_days: int, is_expired: bool
) -> None:
    day = TODAY - timedelta(days=age_days)
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(day=day)])
        writer.delete(f"ig3:{{acme}}:ledger:{day:%Y%m%d}")
        found = await everything(verifier)
    if is_expired:
        assert Reconciliation(expired_days=1) == found
    else:
        assert (1, 0, 4) == (found.days, found.expired_days, len(found.differences))
        assert {0} == {difference.in_records for difference in found.differences}


async def test_the_time_of_records_ends_so_many_days_after_their_day(each_redis: str) -> None:
    """A day is kept until the same moment of its last second, and an hour is left for clocks that differ."""
    end = datetime(2026, 7, 29, tzinfo=UTC).timestamp() + KEEP_DAYS * 86_400
    expired = {}
    for left_s in (7200, 3601, 3600, 0, -7200):
        async with verifying(each_redis, end - left_s) as (verifier, writer):
            writer.flushall()
            settle(writer, [Settled()])
            writer.delete(RECORDS)
            expired[left_s] = (await everything(verifier)).expired_days
    assert {7200: 0, 3601: 0, 3600: 1, 0: 1, -7200: 1} == expired


@pytest.mark.parametrize(
    ("kept_days", "retention_days", "later_days", "is_expired"),
    [(1, 400, 3, True), (1, 400, 1, False), (400, 1, 3, False), (400, 1, 399, False), (400, 1, 402, True)],
)
async def test_until_when_records_are_kept_is_what_settled_them_and_not_the_setting_of_today(
    each_redis: str, *, kept_days: int, retention_days: int, later_days: int, is_expired: bool
) -> None:
    async with connected(each_redis) as client:
        await buy(admitting(client, ledger_days=kept_days), await put_tenant(client))
        day = datetime.now(UTC).date()
        await client.delete(f"ig3:{{acme}}:ledger:{day:%Y%m%d}")
        begins = datetime.combine(day, datetime.min.time(), UTC).timestamp()
        verifier = LedgerVerifier(Ledger(client), retention_days, lambda: begins + later_days * 86_400)
        found = await everything(verifier, UsageFilter(day, day))
    assert (int(is_expired), 0 if is_expired else 8) == (found.expired_days, len(found.differences))


async def test_records_without_sums_are_found_however_short_the_setting_is_now(each_redis: str) -> None:
    async with connected(each_redis) as client:
        await buy(admitting(client, ledger_days=400), await put_tenant(client))
        day = datetime.now(UTC).date()
        await client.delete(f"ig3:{{acme}}:sums:{day:%Y%m%d}", "ig3:{acme}:days")
        now = datetime.now(UTC).timestamp()
        found = await everything(LedgerVerifier(Ledger(client), 1, lambda: now + 10 * 86_400))
    assert {0} == {difference.in_sums for difference in found.differences}


@pytest.mark.parametrize("retention_days", [(1, 400), (400, 1)])
async def test_all_records_of_a_day_end_at_the_later_of_two_settings(
    redis_url: str, retention_days: tuple[int, int]
) -> None:
    """Old and new processes settle side by side while a changed setting is rolled out."""
    now = datetime.now(UTC)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        desk = Desk(client, now.timestamp())
        for number, days in enumerate(retention_days):
            desk.admit(f"t{number}")
            desk.settle(f"t{number}", "u/a:1,0,0,0", retention_days=days)
        ends = client.expiretime(f"ig3:{{acme}}:ledger:{now:%Y%m%d}")
    midnight = datetime.combine(now.date(), datetime.min.time(), UTC).timestamp()
    assert midnight + 401 * 86_400 == ends


async def test_a_day_whose_records_have_ended_does_not_begin_to_have_some_again(redis_url: str) -> None:
    """A reservation of that day is settled late, after the setting was raised: one record would be a difference."""
    now = datetime.now(UTC).timestamp()
    async with verifying(redis_url, now) as (verifier, writer):
        know(writer, "acme")
        desk = Desk(writer, now - 5 * 86_400)
        for reservation in ("early", "late"):
            desk.admit(reservation, 2)
        desk.settle("early", "u/a:2,0,0,0", retention_days=1)
        desk.clock.set(now)
        desk.settle("late", "u/a:1,0,1,0", retention_days=400)
        found = await everything(verifier)
    assert Reconciliation(expired_days=1) == found


async def test_records_that_are_still_there_after_their_time_are_compared(each_redis: str) -> None:
    day = TODAY - timedelta(days=300)
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(day=day)])
        assert Reconciliation(days=1, records=1) == await everything(verifier)
        writer.hincrby(f"ig3:{{acme}}:sums:{day:%Y%m%d}", "key1|lost|image-01", 1)
        [difference] = (await everything(verifier)).differences
    assert Discrepancy(TenantDay(day, "acme"), "key1", "image-01", "lost", 1, 0) == difference


@pytest.mark.slow
async def test_the_work_of_one_call_is_bounded(each_redis: str) -> None:
    history = [
        request
        for tenant in ("acme", "b", "c")
        for number in range(2)
        for request in numbered(Settled(tenant=tenant, day=TODAY - timedelta(days=number)), 2400)
    ]
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, history)
        know(writer, *(f"empty{number}" for number in range(400)))
        found, after = await verifier.verify(ALWAYS)
        assert (3, 7200) == (found.days, found.records)
        assert TenantDay(TODAY - timedelta(days=1), "b") == after
        total = await everything(verifier)
        writer.config_resetstat()
        await verifier.verify(ALWAYS, TenantDay(date(2030, 1, 1), "c"))
        assert 250 >= writer.info("commandstats")["cmdstat_zrangebyscore"]["calls"]
    assert Reconciliation(days=6, records=len(history)) == total


async def test_a_sheet_at_which_a_call_ends_is_compared_once(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(), 6000))
        settle(writer, [Settled(day=TODAY - timedelta(days=1)), Settled(tenant="b")])
        writer.hincrby(SUMS, "key1|lost|image-01", 1)
        total = await everything(verifier)
    assert Reconciliation(3, 6002, differences=[Discrepancy(SHEET, "key1", "image-01", "lost", 1, 0)]) == total


_SETTLE = """
for number = 1, 20 do
  redis.call('XADD', KEYS[1], '*', 'key_id', 'key1', 'model', 'image-01', 'delivered', '1')
  redis.call('HINCRBY', KEYS[2], 'key1|requests|image-01', 1)
  redis.call('HINCRBY', KEYS[2], 'key1|delivered|image-01', 1)
end
"""
_CORRECT = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local fields = first[2]
if ARGV[1] == '1' then
  for i = 1, #fields, 2 do
    if fields[i] == 'unconfirmed' then fields[i + 1] = '0' end
    if fields[i] == 'lost' then fields[i + 1] = '1' end
  end
  redis.call('HINCRBY', KEYS[2], 'key1|unconfirmed|image-01', -1)
  redis.call('HINCRBY', KEYS[2], 'key1|lost|image-01', 1)
end
redis.call('XDEL', KEYS[1], first[1])
redis.call('XADD', KEYS[1], '*', unpack(fields))
"""


async def test_settlements_that_flow_in_meanwhile_are_no_difference(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(), 2000))
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await asyncio.to_thread(writer.eval, _SETTLE, 2, RECORDS, SUMS)
                await asyncio.sleep(0.1)  # longer than a day takes to read, or every reading would be a busy one

        task = asyncio.create_task(write())
        found = [await everything(verifier) for _ in range(5)]
        stop.set()
        await task
        assert [[]] * 5 == [each.differences for each in found]
        assert 2000 < max(each.records for each in found)
        last = await everything(verifier)
    assert (1, 0, []) == (last.days, last.busy_days, last.differences)


@pytest.mark.parametrize("moves_sums", [False, True])
async def test_corrections_that_flow_in_meanwhile_are_no_difference(each_redis: str, *, moves_sums: bool) -> None:
    """A corrected record leaves its place and stands at the end, where it is met again; sums may stay the same."""
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, numbered(Settled(unconfirmed=1), 1000))
        stream = verifier._ledger.stream
        corrections = 0

        async def disturbed(
            sheet: TenantDay, after: str | None = None
        ) -> AsyncIterator[list[tuple[str, dict[str, str]]]]:
            nonlocal corrections
            async for entries in stream(sheet, after):
                yield entries
                if corrections < 3:
                    corrections += 1
                    writer.eval(_CORRECT, 2, RECORDS, SUMS, int(moves_sums))

        verifier._ledger.stream = disturbed  # type: ignore[method-assign, assignment]
        assert Reconciliation(days=1, records=1000) == await everything(verifier)
        assert 3 == corrections


async def test_a_sheet_that_never_rests_is_busy(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, writer):
        settle(writer, [Settled(), Settled(tenant="b")])
        sums = verifier._ledger.sums

        async def moving(sheets: list[TenantDay], split: str) -> object:
            writer.hincrby(SUMS, "key1|lost|image-01", 1)
            return await sums(sheets, split)

        verifier._ledger.sums = moving  # type: ignore[method-assign, assignment]
        found = await everything(verifier)
    assert Reconciliation(days=1, records=1, busy_days=1) == found


async def test_an_unknown_tenant_is_not_found(each_redis: str) -> None:
    async with verifying(each_redis) as (verifier, _):
        with pytest.raises(GatewayError) as refused:
            await verifier.verify(replace(ALWAYS, tenant="nobody"))
    assert (ErrorCode.NOT_FOUND, "tenant") == (refused.value.error_code, refused.value.param)


async def test_books_on_a_cluster_are_read_and_verified(redis_cluster: str) -> None:
    """Tenants of all nodes in one round trip, small sheets beside large ones."""
    history = [
        request
        for number in range(12)
        for request in numbered(Settled(tenant=f"t{number:02}"), 300 if number % 5 == 0 else number, 1000 * number)
    ]
    node = redis_cluster.replace("redis+cluster", "redis").partition(",")[0]
    with redis.RedisCluster.from_url(node, decode_responses=True) as writer:
        settle(writer, history)
        writer.hincrby("ig3:{t07}:sums:20260728", "key1|lost|image-01", 1)
    client = connect(redis_cluster, 5.0)
    ledger = Ledger(client)
    report = UsageReport((GroupBy.TENANT,), 1000)
    await ledger.fill(report, ALWAYS)
    page = await ledger.records(ALWAYS, None, 10_000)
    found = await everything(LedgerVerifier(ledger, KEEP_DAYS, lambda: NOON))
    await client.aclose()
    assert (12, len(history)) == (len(report.rows()), report.total.requests)
    assert [request.request_id for request in history] == [record.request_id for record in page.records]
    difference = Discrepancy(TenantDay(TODAY, "t07"), "key1", "image-01", "lost", 1, 0)
    assert Reconciliation(days=12, records=len(history), differences=[difference]) == found
