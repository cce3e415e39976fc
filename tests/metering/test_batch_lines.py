"""Lines of batches: what they count against, and how the ledger names them."""

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.billing import BatchLine
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal, Rates
from gateway.metering.admission import Admission
from gateway.metering.reservations import Reservation
from gateway.metering.transfers import Transfer, Transfers
from gateway.redis import Client, execute
from tests.support.admissions import admitted, buy, connected, ledger, purchase
from tests.support.admitting import KEY_ID, admitting, put_tenant

pytestmark = pytest.mark.anyio

LINE = BatchLine("batch_1", "cat|1")
NARROW = {"requests_per_minute": 1, "images_per_minute": 1, "concurrency": 1}


def line(admission: Admission, caller: Principal, images: int = 1, of: BatchLine = LINE) -> Any:
    return admission.admit(caller, replace(purchase(images), batch=of))


async def make(admission: Admission, caller: Principal, images: int = 1, of: BatchLine = LINE) -> Reservation:
    """Runs a line from admission to settlement; all its images are delivered."""
    async with line(admission, caller, images, of) as reservation:
        (await reservation.mark_sent("sim", "main", images)).share.deliver(images, images, 0)
    assert isinstance(reservation, Reservation)
    return reservation


async def refusal(admission: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        async with admission:
            pass
    return caught.value


async def sums(redis: Client) -> dict[str, int]:
    [name] = [name async for name in redis.scan_iter("ig3:{acme}:batch_sums:*")]
    return {field: int(value) for field, value in (await execute(redis, redis.hgetall(name), dict[str, str])).items()}


async def test_lines_leave_the_minute_and_the_concurrency_to_other_requests(each_redis: str) -> None:
    async with connected(each_redis) as redis, AsyncExitStack() as held:
        admission, caller = admitting(redis), await put_tenant(redis, limits=NARROW, key_limits=NARROW)
        ids = map(str, itertools.count())
        transfers = Transfers(redis, 60, lambda: next(ids))
        for _ in range(3):
            reservation = await held.enter_async_context(line(admission, caller, 5))
            assert Rates() == reservation.rates
            await reservation.mark_sent("sim", "main", 5)
        await make(admission, caller, 5)
        transfer = Transfer(transfers, caller)
        await transfer.begin()
        transfer.end()
        await transfers.flush()
        usage = await admission.usage("acme")
        async with admitted(admission, caller) as interactive:
            assert (0, 0) == (interactive.rates.requests.remaining, interactive.rates.images.remaining)
            await make(admission, caller, 5)
        assert ErrorCode.RATE_LIMITED is (await refusal(admitted(admission, caller))).error_code
    assert usage is not None
    assert (0, 0, 0, 20) == (
        usage.requests_last_minute,
        usage.images_last_minute,
        usage.concurrency,
        usage.images_today,
    )


async def test_a_settled_line_is_not_refunded_in_the_minute_of_others(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with line(admission, caller, 9):
            await buy(admission, caller, 3)
        usage = await admission.usage("acme")
    assert usage is not None
    assert (1, 3, 3) == (usage.requests_last_minute, usage.images_last_minute, usage.images_today)


@pytest.mark.parametrize(
    ("limits", "key_limits"),
    [
        ({"images_per_day": 5}, {}),
        ({"images_per_month": 5}, {}),
        ({"usd_micros_per_month": 5 * 3500}, {}),
        ({}, {"images_per_day": 5}),
        ({}, {"usd_micros_per_month": 5 * 3500}),
    ],
)
async def test_lines_count_against_the_quotas_of_tenant_and_key(
    each_redis: str, limits: dict[str, int], key_limits: dict[str, int]
) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits=limits, key_limits=key_limits)
        await make(admission, caller, 3)
        assert ErrorCode.QUOTA_EXHAUSTED is (await refusal(line(admission, caller, 3))).error_code
        await make(admission, caller, 2)
        assert ErrorCode.QUOTA_EXHAUSTED is (await refusal(admitted(admission, caller))).error_code


async def test_a_line_of_a_revoked_key_or_a_disabled_tenant_is_refused(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        await execute(redis, redis.hset("ig3:{acme}:tenant", "disabled", "1"), int)
        assert ErrorCode.INVALID_API_KEY is (await refusal(line(admission, caller))).error_code
        await execute(redis, redis.hset("ig3:{acme}:tenant", "disabled", "0"), int)
        await make(admission, caller)
        await execute(redis, redis.hdel("ig3:{acme}:keys", KEY_ID), int)
        assert ErrorCode.INVALID_API_KEY is (await refusal(line(admission, caller))).error_code


async def test_the_ledger_names_a_line_and_sums_its_batch(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        await make(admission, caller, 2)
        await make(admission, caller, 1, BatchLine("batch_1", "b"))
        await buy(admission, caller, 4)
        async with line(admission, caller):
            pass  # never sent: it has no record, and is in no batch
        records = [(fields.get("batch_id"), fields.get("custom_id")) for _, fields in await ledger(redis)]
        found = await sums(redis)
        names = [name async for name in redis.scan_iter("ig3:{acme}:*") if ":batch_sums:" in name or ":ledger:" in name]
        kept_s = [await execute(redis, redis.ttl(name), int) for name in names]
        assert not await execute(redis, redis.exists("ig3:{acme}:batch_open"), int)
    assert (2, True) == (len(kept_s), 0 < kept_s[0] <= kept_s[1] + 1 <= kept_s[0] + 2)
    assert [("batch_1", "cat|1"), ("batch_1", "b"), (None, None)] == records
    measures = {"requests": 2, "asked": 3, "delivered": 3, "usd_micros": 10_500}
    assert {f"batch_1|{KEY_ID}|{name}|image-01": value for name, value in measures.items()} == found


async def test_a_line_of_a_dead_process_is_settled_and_corrected_in_its_batch(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        slow, heir = admitting(redis, lease_s=0.1), admitting(redis)
        caller = await put_tenant(redis)
        async with line(slow, caller, 3) as reservation:
            share = (await reservation.mark_sent("sim", "main", 3)).share
            await asyncio.sleep(0.2)
            await heir.settle_expired("acme", reservation.id)
            [(_, expired)] = await ledger(redis)
            share.deliver(3, 2, 1)
        [(_, corrected)] = await ledger(redis)
        found = await sums(redis)
    for record, outcome in ((expired, "unconfirmed"), (corrected, "delivered")):
        assert ("batch_1", "cat|1", outcome) == (record["batch_id"], record["custom_id"], record["outcome"])
    expected = {"requests": 1, "asked": 3, "delivered": 2, "withheld": 1, "unconfirmed": 0, "usd_micros": 7000}
    assert {f"batch_1|{KEY_ID}|{name}|image-01": value for name, value in expected.items()} == found
