"""Events of accounts that are spent, keys that are quarantined, and upstreams that can serve nothing."""

import json

import pytest

from gateway.domain.errors import ErrorCode
from gateway.redis import Client, execute
from gateway.scheduler.leases import CallReport, NoCapacity
from tests.support.admissions import connected
from tests.support.pooling import Process, account, pass_time, pooling

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
        found = [one for one in await events(redis) if one[0] != "pool.no_capacity"]
        assert {kind} == {name for name, _ in found}
        assert 2 == len(found)
        assert {"upstream": "sim", "error_code": error_code.value, **place} in [data for _, data in found]


async def test_an_error_that_passes_is_no_loss(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        await fail(process, ErrorCode.ACCOUNT_RATE_LIMITED)
        assert [] == await events(redis)


async def outages(redis: Client) -> list[tuple[str, str]]:
    return [(kind.removeprefix("pool."), data.get("model", "")) for kind, data in await events(redis) if "cap" in kind]


async def test_an_outage_has_one_begin_and_one_end_for_all_processes(redis_url: str) -> None:
    accounts = (account("a"), account("b"))
    async with connected(redis_url) as redis, pooling(redis, *accounts) as one, pooling(redis, *accounts) as other:
        leases = [await process.take() for process in (one, other) * 6]
        for lease in leases[:-1]:
            process = one if lease.key.account == "a" else other
            await process.pool.release(lease, CallReport(ErrorCode.INSUFFICIENT_BALANCE))
        assert [("no_capacity", "")] == await outages(redis)
        await one.pool.release(leases[-1], CallReport(images=1))  # it was sent before the outage
        await pass_time(redis, 86_400)
        await fail_all(other, ErrorCode.INSUFFICIENT_BALANCE)  # the trial of each account
        assert [("no_capacity", "")] == await outages(redis)
        await pass_time(redis, 86_400)
        for process in (one, other):
            await process.pool.release(await process.take(), CallReport(images=1))
        assert [("no_capacity", ""), ("capacity_restored", "")] == await outages(redis)


async def test_an_outage_of_a_model_names_it(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        for _ in range(2):
            await fail_all(process, ErrorCode.KEY_MODEL_DENIED)
        assert [("no_capacity", "image-01")] == await outages(redis)
        await process.pool.release(await process.take(model="other"), CallReport(images=1))
        assert [("no_capacity", "image-01")] == await outages(redis)


async def test_a_busy_upstream_has_no_outage(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        await fail_all(process, ErrorCode.ACCOUNT_RATE_LIMITED)
        await process.refuse()
        assert [] == await outages(redis)


async def fail_all(process: Process, error_code: ErrorCode) -> None:
    """Fails each call until no account gives a lease."""
    for _ in range(10):
        if isinstance(lease := await process.ask(), NoCapacity):
            return
        await process.pool.release(lease, CallReport(error_code))
    raise AssertionError("there are leases yet")
