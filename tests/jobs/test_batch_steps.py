"""Steps of batches on a real Redis and a real directory: repeated by several processes, and bounded."""

import asyncio
import codecs
import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.domain.tenants import ApiKey, Principal, Tenant
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs.batch_stages import LINE_STORED_BYTES, BatchStages
from gateway.jobs.batches import Batch, BatchLimits, BatchStatus, BatchStore, new_batch_id
from gateway.jobs.files import Files
from gateway.redis import Client, execute
from gateway.storage.quota import StorageQuota, StorageTerms
from tests.support import storing
from tests.support.admissions import connected
from tests.support.batching import ENDPOINT, line

pytestmark = pytest.mark.anyio
LINE_MAX_BYTES = 10_000


@dataclass
class Gateway:
    """The batches of one tenant, and any number of processes that take their steps."""

    redis: Client
    directory: Path
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    budget: ByteBudget = field(default_factory=lambda: ByteBudget(2**30))
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released by each step that begins."""

    def __post_init__(self) -> None:
        self.store = BatchStore(self.redis, BatchLimits(open_max=9))
        self.quota = StorageQuota(self.redis, StorageTerms(24, 2**40))
        objects = storing.opened(storing.in_directory(self.directory))
        self.files = Files(self.redis, objects, self.quota, 9, time.time, lambda: uuid.uuid4().hex)
        self.may_read.set()

    def process(self, find_model: Callable[[str | None, Tenant], str | None]) -> BatchStages:
        async def find_principal(_: str) -> Principal:
            self.reading.release()
            await self.may_read.wait()
            return Principal(Tenant("acme"), ApiKey("k", "acme", "", 1))

        rules = (9, {ENDPOINT: LINE_MAX_BYTES}, 10)
        return BatchStages(
            self.store, self.files, find_principal, find_model, *rules, self.quota, self.budget, time.time
        )

    async def create(self, content: bytes = json.dumps(line("a")).encode()) -> Batch:
        upload = self.files.begin_upload("acme", ByteAccount())
        await upload.append(bytearray(content))
        file = await self.files.add_upload(upload, "b.jsonl", "batch", 86_400)
        now_s = int(time.time())
        return await self.store.create(
            Batch(
                id=new_batch_id(),
                tenant="acme",
                key_id="k",
                endpoint=ENDPOINT,
                input_file_id=file.id,
                created_at=now_s,
                expires_at=now_s + 86_400,
                output_kept_s=3600,
            )
        )


async def take(process: BatchStages, batch: Batch) -> bool:
    """Takes the first step of a batch; False if it is another one's, or has to wait."""
    async with process.alone(batch) as is_alone:
        if is_alone:
            await process.validate(batch)
        return is_alone


def fail(_: str | None, __: Tenant) -> str:
    raise RuntimeError("a bug")


async def test_a_step_at_which_this_program_fails_is_repeated_ever_later_and_then_fails_its_batch(
    redis_url: str, tmp_path: Path
) -> None:
    async with connected(redis_url) as redis:
        gateway, pauses = Gateway(redis, tmp_path), list[int]()
        batch, processes = await gateway.create(), [gateway.process(fail) for _ in range(2)]
        [lock] = gateway.store.keys("acme", f"batch:{batch.id}:lock")
        for attempt in range(6):
            assert BatchStatus.VALIDATING is (await gateway.store.get("acme", batch.id)).status
            with pytest.raises(RuntimeError, match="a bug"):
                await take(processes[attempt % 2], batch)
            pauses.append(math.ceil(await execute(redis, redis.pttl(lock), int) / 1000))
            assert [attempt == 5] * 2 == [await _is_free(process, batch) for process in processes]
            await execute(redis, redis.delete(lock), int)  # the pause is over
        found = await gateway.store.get("acme", batch.id)
    assert [10, 20, 40, 80, 160, 0] == pauses
    assert (BatchStatus.FAILED, ["server_error"]) == (found.status, [error.code for error in found.errors])


async def _is_free(process: BatchStages, batch: Batch) -> bool:
    async with process.alone(batch) as is_alone:
        return is_alone


async def test_a_process_validates_two_files_at_one_time_and_leaves_the_others_to_others(
    redis_url: str, tmp_path: Path
) -> None:
    async with connected(redis_url) as redis:
        gateway = Gateway(redis, tmp_path)
        batches = [await gateway.create() for _ in range(3)]
        one, other = (gateway.process(lambda name, _: name) for _ in range(2))
        gateway.may_read.clear()
        first = [asyncio.create_task(take(one, batch)) for batch in batches[:2]]
        for _ in first:
            await gateway.reading.acquire()
        assert not await asyncio.wait_for(take(one, batches[2]), 5)
        last = asyncio.create_task(take(other, batches[2]))
        gateway.may_read.set()
        assert [True] * 3 == await asyncio.gather(*first, last)
        found = [await gateway.store.get("acme", batch.id) for batch in batches]
    assert [(BatchStatus.IN_PROGRESS, 1)] * 3 == [(batch.status, batch.images) for batch in found]


async def test_a_line_is_counted_in_the_memory_budget_while_a_file_is_read(redis_url: str, tmp_path: Path) -> None:
    async with connected(redis_url) as redis:
        gateway, held = Gateway(redis, tmp_path), list[int]()

        def find_model(name: str | None, _: Tenant) -> str | None:
            held.append(gateway.budget.held_by_tenant["acme"])
            return name

        assert await take(gateway.process(find_model), await gateway.create())
    assert [True] == [count >= 2 * LINE_MAX_BYTES for count in held]
    assert 0 == gateway.budget.held_bytes


async def test_a_line_behind_a_byte_order_mark_that_never_ran_is_in_the_error_file(
    redis_url: str, tmp_path: Path
) -> None:
    async with connected(redis_url) as redis:
        gateway = Gateway(redis, tmp_path)
        texts = [json.dumps(line(custom_id)).encode() for custom_id in "ab"]
        batch, process = await gateway.create(codecs.BOM_UTF8 + b"\n".join(texts)), gateway.process(known)
        assert await take(process, batch)
        assert await gateway.store.advance(batch, BatchStatus.CANCELLING, time.time())
        ended = await process.finalize(await gateway.store.get("acme", batch.id))
        assert ended
        file = await gateway.files.get("acme", str(ended.error_file_id))
        objects = await gateway.files.objects.get(file.objects[0])
        found = [json.loads(text) for text in b"".join([chunk async for chunk in objects]).splitlines()]
    assert ["a", "b"] == [entry["custom_id"] for entry in found]


async def test_the_lines_of_a_batch_are_counted_once_however_often_its_file_is_validated(
    redis_url: str, tmp_path: Path
) -> None:
    """A process that dies, or Redis that fails, between two commands of the step repeats it."""
    async with connected(redis_url) as redis:
        gateway = Gateway(redis, tmp_path)
        batch, process = await gateway.create(), gateway.process(known)
        before = await gateway.quota.stored_bytes("acme", time.time())
        for _ in range(3):
            assert await take(process, batch)
        counted = await gateway.quota.stored_bytes("acme", time.time()) - before
    assert LINE_STORED_BYTES == counted


async def test_a_batch_that_is_cancelled_while_its_file_is_validated_leaves_nothing_that_counts(
    redis_url: str, tmp_path: Path
) -> None:
    async with connected(redis_url) as redis:
        gateway = Gateway(redis, tmp_path)
        batch, process = await gateway.create(), gateway.process(known)
        before = await gateway.quota.stored_bytes("acme", time.time())
        assert await gateway.store.advance(batch, BatchStatus.CANCELLING, time.time())
        for _ in range(2):  # processes that began before the cancellation
            await process.validate(batch)
        counted = await gateway.quota.stored_bytes("acme", time.time()) - before
        [index] = gateway.store.keys("acme", f"batch:{batch.id}:index")
        assert (0, 0) == (counted, await execute(redis, redis.exists(index), int))


def known(name: str | None, _: Tenant) -> str | None:
    return name
