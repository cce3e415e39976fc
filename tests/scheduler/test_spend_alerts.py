"""An event when an account has delivered more than its operator expects of a day."""

import asyncio
import json
import time
from dataclasses import replace

import pytest

from gateway.redis import Client, execute
from gateway.scheduler.leases import CallReport
from tests.support.admissions import connected
from tests.support.pooling import Process, account, pooling

pytestmark = pytest.mark.anyio
DAY_S = 86_400


def alert(process: Process, **alerts: int) -> None:
    process.roster.pools["sim"] = replace(process.roster.pools["sim"], spend_alerts=alerts)


async def deliver(process: Process, images: int = 1) -> None:
    await process.pool.release(await process.take(), CallReport(images=images, usd_micros=3500 * images))


async def events(redis: Client) -> list[dict[str, object]]:
    entries = await execute(redis, redis.xrange("ig3:{pool:sim}:events"), list[tuple[str, dict[str, str]]])
    assert {"upstream.spend_threshold_crossed"} >= {fields["type"] for _, fields in entries}
    return [json.loads(fields["data"]) for _, fields in entries]


async def test_one_event_a_day_and_account_whichever_process_crosses(redis_url: str) -> None:
    now_s = [time.time() // DAY_S * DAY_S + 1]
    async with (
        connected(redis_url) as redis,
        pooling(redis, account("a"), clock=lambda: now_s[0]) as one,
        pooling(redis, account("a"), clock=lambda: now_s[0]) as other,
    ):
        for process in (one, other):
            alert(process, a=14_000)
        await asyncio.gather(*(deliver(process) for process in (one, other, one)))
        assert [] == await events(redis)
        await asyncio.gather(*(deliver(process) for process in (one, other) * 5))
        day = f"{time.strftime('%Y-%m-%d', time.gmtime(now_s[0]))}"
        told = {"upstream": "sim", "account": "a", "day": day, "used": "0.014", "limit": "0.014"}
        assert [told] == await events(redis)
        now_s[0] += DAY_S
        await deliver(one, 5)
        assert [day, "0.0175"] == [(await events(redis))[0]["day"], (await events(redis))[1]["used"]]
        assert 2 == len(await events(redis))


async def test_without_a_cap_and_below_it_nothing_is_emitted(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        await deliver(process, 9)
        alert(process, a=1_000_000, b=1)
        await deliver(process, 9)
        assert [] == await events(redis)
