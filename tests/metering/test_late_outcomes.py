"""The truth about tasks that ended after their request: it corrects the settlement once, whoever says it and when."""

import asyncio
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from gateway.domain.pricing import Bill
from gateway.metering.admission import Admission
from gateway.metering.reservations import LateOutcome
from gateway.redis import Client, execute
from tests.support.admissions import admitted, connected, ledger
from tests.support.admitting import admitting, put_tenant

pytestmark = pytest.mark.anyio


def late(task: str, images: int = 1, **outcomes: int) -> LateOutcome:
    return LateOutcome(task, "sim/main", images, **outcomes)


async def record_of(redis: Client) -> dict[str, str]:
    """The only record, with the sums of its day: they must agree with it."""
    [(_, record)] = await ledger(redis)
    [key] = [name async for name in redis.scan_iter("ig3:{acme}:sums:*")]
    sums = await execute(redis, redis.hgetall(key), dict[str, str])
    kept = {name.split("|")[1]: value for name, value in sums.items()}
    for name in ("delivered", "withheld", "lost", "unconfirmed", "usd_micros"):
        assert int(record[name]) == int(kept.get(name, 0)), name
    return record


async def unconfirmed(admission: Admission, redis: Client, images: int) -> str:
    """A settled request whose images are unconfirmed. Returns: its reservation ID."""
    caller = await put_tenant(redis, limits={"images_per_day": 100})
    async with admitted(admission, caller, images) as reservation:
        for _ in range(images):
            await reservation.mark_sent("sim", "main", 1)
        reservation.tally.tasks += "abcd"[:images]
    name: str = reservation.id
    return name


async def used(admission: Admission) -> tuple[int, int]:
    usage = await admission.usage("acme")
    assert usage
    return usage.images_today, usage.usd_micros_this_month


async def test_each_task_is_corrected_once(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        name = await unconfirmed(admission, redis, 4)
        assert (4, 14_000) == await used(admission)
        for _ in range(2):
            assert await admission.settle_late("acme", name, late("a", delivered=1))
            assert await admission.settle_late("acme", name, late("b"))
            assert await admission.settle_late("acme", name, late("c", withheld=1))
        record = await record_of(redis)
        assert ("sim/main:1,1,0,1", "delivered") == (record["calls"], record["outcome"])
        assert (2, 7_000) == await used(admission)


async def test_a_request_that_is_not_settled_is_corrected_later(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admitted(admission, caller, 1) as reservation:
            await reservation.mark_sent("sim", "main", 1)
            reservation.tally.tasks.append("a")
            assert not await admission.settle_late("acme", reservation.id, late("a"))
        assert await admission.settle_late("acme", reservation.id, late("a"))
        record = await record_of(redis)
    assert ("refused", "0") == (record["outcome"], record["usd_micros"])


async def test_a_settlement_that_is_repeated_keeps_the_correction(redis_url: str) -> None:
    """The process was cut off: it repeats what it knew when the request ended."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admitted(admission, caller, 1) as reservation:
            await reservation.mark_sent("sim", "main", 1)
            reservation.tally.tasks.append("a")
        await admission.settle_late("acme", reservation.id, late("a", delivered=1))
        before = await record_of(redis)
        admission._unsettled[reservation.id] = reservation
        await admission._settle_all()
        assert before == await record_of(redis)


async def test_a_dead_process_s_task_is_corrected_and_what_it_says_itself_counts_beside_it(redis_url: str) -> None:
    """Two tasks: the one is ended by another process, the other by its own, which was stopped for a while."""
    async with connected(redis_url) as redis:
        slow, heir = admitting(redis, lease_s=0.1), admitting(redis)
        caller = await put_tenant(redis)
        async with admitted(slow, caller, 2) as reservation:
            await reservation.mark_sent("sim", "main", 1)
            own = await reservation.mark_sent("sim", "main", 1)
            await asyncio.sleep(0.2)
            assert not await heir.settle_late("acme", reservation.id, late("a"))
            await heir.settle_expired("acme", reservation.id)
            assert await heir.settle_late("acme", reservation.id, late("a"))
            assert "sim/main:0,0,0,1" == (await record_of(redis))["calls"]
            own.share.deliver(1, 1, 0)
            reservation.tally.tasks.append("a")
        record = await record_of(redis)
    assert ("sim/main:1,0,0,0", "delivered", "3500") == (record["calls"], record["outcome"], record["usd_micros"])


async def test_another_account_is_not_corrected(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        name = await unconfirmed(admission, redis, 1)
        await admission.settle_late("acme", name, LateOutcome("a", "sim/other", 1))
        assert "sim/main:0,0,0,1" == (await record_of(redis))["calls"]


async def test_a_closed_month_gets_a_correction(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        name = await unconfirmed(admission, redis, 1)
        await execute(redis, redis.hset("ig3:{acme}:closed", f"{datetime.now(UTC):%Y%m}", "{}"), int)
        await admission.settle_late("acme", name, late("a"))
        first, second = [record for _, record in await ledger(redis)]
    assert ("1", "3500") == (first["unconfirmed"], first["usd_micros"])
    assert ("-1", "-3500", first["reservation"]) == tuple(
        second[name] for name in ("unconfirmed", "usd_micros", "reservation")
    )


@pytest.mark.parametrize("has_expired", [False, True])
async def test_a_task_that_ended_within_its_request_corrects_no_other_one(redis_url: str, *, has_expired: bool) -> None:
    """Its process died before Redis forgot the task, or was cut off: another one asks for it again."""
    async with connected(redis_url) as redis:
        own, heir = admitting(redis, lease_s=0.1 if has_expired else 60), admitting(redis)
        async with admitted(own, await put_tenant(redis), 2) as reservation:
            call = await reservation.mark_sent("sim", "main", 1)
            await reservation.mark_sent("sim", "main", 1)
            if has_expired:
                await asyncio.sleep(0.2)
                await heir.settle_expired("acme", reservation.id)
                await heir.settle_late("acme", reservation.id, late("a", withheld=1))
            call.share.deliver(1, 0, 1)
            reservation.tally.tasks.append("b")
        await heir.settle_late("acme", reservation.id, late("a", withheld=1))
        assert "sim/main:0,1,0,1" == (await record_of(redis))["calls"]
        await heir.settle_late("acme", reservation.id, late("b", delivered=1))
        assert "sim/main:1,1,0,0" == (await record_of(redis))["calls"]


async def test_an_expired_request_that_is_corrected_is_kept_for_its_journal(redis_url: str) -> None:
    """Its process may return a day later, with what it delivered beside the task."""
    async with connected(redis_url) as redis:
        dead, heir = admitting(redis, lease_s=0.1), admitting(redis)
        async with admitted(dead, await put_tenant(redis), 2) as reservation:
            own = await reservation.mark_sent("sim", "main", 1)
            await reservation.mark_sent("sim", "main", 1)
            await asyncio.sleep(0.2)
            await heir.settle_expired("acme", reservation.id)
            name = f"ig3:{{acme}}:reservation:{reservation.id}"
            kept_s = await execute(redis, redis.ttl(name), int)
            await heir.settle_late("acme", reservation.id, late("b", delivered=1))
            assert kept_s - 60 < await execute(redis, redis.ttl(name), int)
            own.share.deliver(1, 1, 0)
            reservation.tally.tasks.append("b")
        assert "sim/main:2,0,0,0" == (await record_of(redis))["calls"]


async def test_a_late_image_is_charged_its_share_beside_one_with_a_charge_of_its_own(redis_url: str) -> None:
    """The first image cost what its answer stated; of the second only the reservation is known."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admitted(admission, caller, 2) as reservation:
            first = await reservation.mark_sent("sim", "main", 1)
            await reservation.mark_sent("sim", "main", 1)
            first.share.deliver(1, 1, 0, Bill(Fraction(1000), Fraction(500)))
            reservation.tally.tasks.append("a")
        before = await record_of(redis)
        await admission.settle_late("acme", reservation.id, late("a", delivered=1))
        after = await record_of(redis)
    assert ("sim/main:1,0,0,1,1000", "4500") == (before["calls"], before["usd_micros"])
    assert ("sim/main:2,0,0,0,4500", "4500", "0") == (after["calls"], after["usd_micros"], after["unconfirmed"])
