"""What batches leave in Redis for all tenants: the list of open ones, and the events of their ends."""

import asyncio
import base64
from collections import Counter
from collections.abc import Mapping

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.jobs.batches import Batch, BatchLimits, BatchStatus, BatchStore, new_batch_id
from gateway.jobs.webhooks import Webhooks
from gateway.observability.metrics import Metrics
from gateway.redis import execute
from tests.support.admissions import connected

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def batch(tenant: str = "acme", status: BatchStatus = BatchStatus.VALIDATING) -> Batch:
    return Batch(
        id=new_batch_id(),
        tenant=tenant,
        key_id="k",
        endpoint="/v1/images/generations",
        input_file_id="file-1",
        created_at=1,
        expires_at=2,
        output_kept_s=3600,
        status=status,
        completed_at=3 if status is BatchStatus.COMPLETED else None,
    )


async def test_the_open_batches_of_all_tenants_are_limited(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        store = BatchStore(redis, BatchLimits(open_max=2, all_open_max=2))
        first = await store.create(batch("one"))
        await store.create(batch("two"))
        with pytest.raises(GatewayError, match="open batches of this server") as caught:
            await store.create(batch("three"))
        assert ErrorCode.RATE_LIMITED is caught.value.error_code
        assert 2 == len(await store.open_batches())
        assert [True, False] == [await store.drop("one", first.id) for _ in range(2)]
        assert "three" == (await store.create(batch("three"))).tenant


async def test_two_processes_deliver_each_event_once(redis_url: str) -> None:
    sent = Counter[str]()

    async def post(_: str, headers: Mapping[str, str], __: bytes) -> int:
        sent[headers["webhook-id"]] += 1
        await asyncio.sleep(0.01)
        return 200

    async with connected(redis_url) as redis:
        url = "https://hooks.example.com"
        processes = [Webhooks(redis, url, SECRET, post, Metrics(), name) for name in ("a", "b")]
        ended = [batch(status=BatchStatus.COMPLETED) for _ in range(5)]
        for process in processes:  # both saw every end
            for one in ended:
                await process.queue(one)
        assert 3 * 86_400 < await execute(redis, redis.ttl(f"{redis.prefix}:webhooks"), int) <= 4 * 86_400
        tasks = [asyncio.create_task(process.run()) for process in processes]
        await asyncio.sleep(2.5)
        for task in tasks:
            task.cancel()
    assert [1, 1, 1, 1, 1] == sorted(sent.values())
