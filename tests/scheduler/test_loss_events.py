"""Events of accounts that are spent and keys that are quarantined."""

import json

import pytest

from gateway.domain.errors import ErrorCode
from gateway.redis import Client, execute
from gateway.scheduler.leases import CallReport
from tests.support.admissions import connected
from tests.support.pooling import Process, account, pooling

pytestmark = pytest.mark.anyio


async def fail(process: Process, error_code: ErrorCode) -> None:
    await process.pool.release(await process.take(), CallReport(error_code))


async def events(redis: Client) -> list[tuple[str, dict[str, str]]]:
    entries = await execute(redis, redis.xrange("ig3:{pool:sim}:events"), list[tuple[str, dict[str, str]]])
    return [(fields["type"], json.loads(fields["data"])) for _, fields in entries]


@pytest.mark.parametrize(
    ("error_code", "kind", "place"),
    [
        (ErrorCode.INSUFFICIENT_BALANCE, "pool.account_spent", {"account": "a"}),
        (ErrorCode.QUOTA_EXHAUSTED_PLAN, "pool.account_spent", {"account": "a"}),
        (ErrorCode.KEY_INVALID, "pool.key_quarantined", {"account": "a", "key": "a-1"}),
    ],
)
async def test_a_loss_is_reported_once_a_day(
    redis_url: str, error_code: ErrorCode, kind: str, place: dict[str, str]
) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a"), account("b")) as process:
        leases = [await process.take() for _ in range(6)]
        for lease in leases:  # of both accounts, several times
            await process.pool.release(lease, CallReport(error_code))
        found = await events(redis)
        assert {kind} == {name for name, _ in found}
        assert 2 == len(found)
        assert {"upstream": "sim", "error_code": error_code.value, **place} in [data for _, data in found]


async def test_an_error_that_passes_is_no_loss(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED)
        assert [] == await events(redis)
