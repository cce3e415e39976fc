"""Credits: quota that an administrator gives back."""

import json
from typing import Any

import pytest

from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.metering.admission import Admission
from gateway.metering.credits import Credit, Credits
from gateway.redis import Client, execute
from tests.support.admissions import buy, connected, ledger
from tests.support.admitting import admitting, put_tenant

pytestmark = pytest.mark.anyio
OPS = Actor("ops", "req_1")


async def events(redis: Client) -> list[int]:
    entries = await execute(redis, redis.xrange("ig3:{acme}:events"), list[tuple[str, dict[str, str]]])
    return [json.loads(fields["data"])["percent"] for _, fields in entries]


async def credited(admission: Admission) -> tuple[int, int, int]:
    usage = await admission.usage("acme")
    assert usage
    return usage.images_today, usage.images_this_month, usage.usd_micros_this_month


async def test_a_credit_frees_quota_and_changes_no_bill(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        caller = await put_tenant(redis, limits={"images_per_day": 4, "images_per_month": 4})
        admission, credits_ = admitting(redis), Credits(redis, 1000)
        await buy(admission, caller, 4)
        with pytest.raises(GatewayError, match="used 4, requested 1"):
            await buy(admission, caller)
        given: dict[str, Any] = await credits_.give("acme", Credit(images=3), OPS, reason="outage")
        assert {"images_per_day": 3, "images_per_month": 3, "usd_per_month": "0.00"} == given["credited"]
        assert (1, 1, 14_000) == await credited(admission)
        await buy(admission, caller, 3)
        with pytest.raises(GatewayError, match="used 4, requested 1"):
            await buy(admission, caller)
        assert [14_000, 10_500] == [int(fields["usd_micros"]) for _, fields in await ledger(redis)]


async def test_money_is_given_back_in_its_month_alone(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        caller = await put_tenant(redis, limits={"usd_micros_per_month": 7000})
        admission = admitting(redis)
        await buy(admission, caller, 2)
        given: Any = await Credits(redis, 1000).give("acme", Credit(usd_micros=3500), OPS, reason="outage")
        assert "0.0035" == given["credited"]["usd_per_month"]
        assert (2, 2, 3500) == await credited(admission)
        await buy(admission, caller)


async def test_a_reset_gives_back_what_was_charged_and_reports_percentages_again(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        caller = await put_tenant(redis, limits={"images_per_month": 4})
        admission, credits_ = admitting(redis, alert_percents=(50, 100)), Credits(redis, 1000)
        await buy(admission, caller, 4)
        with pytest.raises(GatewayError):
            await buy(admission, caller)
        assert [50, 100, 100] == await events(redis)
        await credits_.give("acme", Credit(images=2), OPS, reason="outage")
        await buy(admission, caller, 2)
        assert [50, 100, 100] == await events(redis)
        await credits_.give("acme", Credit(reset="images_per_month"), OPS, reason="new contract")
        assert (4, 0, 21_000) == await credited(admission)
        await buy(admission, caller, 2)
        await buy(admission, caller, 2)
        with pytest.raises(GatewayError):
            await buy(admission, caller)
        assert [50, 100, 100, 50, 100, 100] == await events(redis)


async def test_a_reset_takes_back_no_credit_that_exceeds_what_is_used(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        caller = await put_tenant(redis)
        admission, credits_ = admitting(redis), Credits(redis, 1000)
        await buy(admission, caller, 2)
        await credits_.give("acme", Credit(images=5), OPS, reason="outage")
        await credits_.give("acme", Credit(reset="images_per_month"), OPS, reason="outage")
        assert (-3, -3, 7000) == await credited(admission)


async def test_a_repeated_id_gives_once_and_another_credit_under_it_is_refused(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        await put_tenant(redis)
        credits_ = Credits(redis, 1000)
        first = await credits_.give("acme", Credit(images=3), OPS, reason="outage", credit_id="t-1")
        again = await credits_.give("acme", Credit(images=3), OPS, reason="outage", credit_id="t-1")
        assert [first | {"repeated": repeated} for repeated in (False, True)] == [first, again]
        with pytest.raises(GatewayError) as refused:
            await credits_.give("acme", Credit(images=4), OPS, reason="outage", credit_id="t-1")
        assert ErrorCode.CONFLICT is refused.value.error_code
        entries = await execute(redis, redis.xrange("ig3:{acme}:audit"), list[tuple[str, dict[str, str]]])
        [entry] = [fields for _, fields in entries]
        assert ("ops", "tenant.credit", "req_1") == (entry["actor"], entry["action"], entry["request_id"])
        after = json.loads(entry["after"])
        assert ("outage", "t-1", 3) == (after["reason"], after["id"], after["images_per_month"])


@pytest.mark.parametrize("each", ["acme", "beta"])
async def test_an_unknown_tenant_or_month_gets_nothing(redis_url: str, each: str) -> None:
    async with connected(redis_url) as redis:
        await put_tenant(redis)
        month = "" if each == "beta" else "202001"
        before = {key async for key in redis.scan_iter()}
        with pytest.raises(GatewayError) as refused:
            await Credits(redis, 1000).give(each, Credit(images=3), OPS, reason="outage", month=month)
        expected = ErrorCode.NOT_FOUND if each == "beta" else ErrorCode.INVALID_VALUE
        assert expected is refused.value.error_code
        assert before == {key async for key in redis.scan_iter()}


async def test_all_that_a_credit_writes_expires(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        await put_tenant(redis)
        before = {key async for key in redis.scan_iter()}
        await Credits(redis, 1000).give("acme", Credit(images=3), OPS, reason="outage", credit_id="x")
        new = {key async for key in redis.scan_iter()} - before - {"ig3:{acme}:audit"}
        assert 3 == len(new)
        assert all([await execute(redis, redis.ttl(key), int) > 0 for key in new])
