"""What is kept of refused requests, and the bounds of it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.metering.refusals import (
    KEEP_S,
    NO_TENANT,
    Refusal,
    RefusalList,
    RefusalRecorder,
    fair_share,
    owners_record,
)
from gateway.redis import Client, LeaderLock
from gateway.tenants.merged_streams import Cursor, Entry, Selection
from gateway.tenants.records import record
from tests.support.asking import connected

pytestmark = pytest.mark.anyio


class Keeping:
    """A recorder at a time of its own."""

    def __init__(self, redis: Client) -> None:
        self.redis, self.now_s, self.dropped = redis, time.time(), 0
        lock = LeaderLock(redis, "refusals_leader", "me", 60)
        self.recorder = RefusalRecorder(redis, lambda: self.now_s, lock, self._drop)
        self.listed = RefusalList(redis, lambda: self.now_s)

    def refuse(self, tenant: str = "acme", number: int = 0, code: str = "rate_limited") -> None:
        self.recorder.note(Refusal(f"req_{number}", tenant, "key1", "image-01", code, ""))

    async def write(self, tenant: str, count: int) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for number in range(count):
            pipeline.xadd(
                record(self.redis, tenant, "refusals"), {"request_id": f"{tenant}{number}", "code": "internal"}
            )
        pipeline.zadd(owners_record(self.redis.prefix), {tenant: self.now_s + len(tenant)})
        await pipeline.execute()

    async def page(self, tenant: str | None = None, limit: int = 1000, **wanted: str) -> list[Entry]:
        def matches(fields: object) -> bool:
            return isinstance(fields, dict) and wanted.items() <= fields.items()

        return (await self.listed.page(tenant, limit, Selection(matches=matches if wanted else None)))[0]

    async def length(self, tenant: str) -> int:
        return int(await self.redis.xlen(record(self.redis, tenant, "refusals")))

    def _drop(self, count: int) -> None:
        self.dropped += count


@pytest.fixture
async def keeping(redis_url: str) -> AsyncIterator[Keeping]:
    async with connected(redis_url) as redis:
        yield Keeping(redis)


async def test_refusals_are_found_newest_first_over_all_tenants(keeping: Keeping) -> None:
    for number, tenant in enumerate(("acme", "globex", "", "acme")):
        keeping.refuse(tenant, number)
        await keeping.recorder.flush()
        await asyncio.sleep(0.005)  # a millisecond is the order of two tenants' entries
    found = await keeping.page()
    assert ["req_3", "req_2", "req_1", "req_0"] == [fields["request_id"] for _, fields in found]
    assert ["acme", NO_TENANT, "globex", "acme"] == [place.owner for place, _ in found]
    assert ["req_3", "req_0"] == [fields["request_id"] for _, fields in await keeping.page("acme")]
    assert ["globex"] == [place.owner for place, _ in await keeping.page(request_id="req_1")]
    first, following = await keeping.listed.page(None, 3, Selection())
    assert following
    rest, end = await keeping.listed.page(None, 3, Selection(end=Cursor.parse(following)))
    assert (found, None) == ([*first, *rest], end)
    assert [("rate_limited", 4)] == (await keeping.listed.counts())[1]


async def test_a_flood_is_counted_and_kept_in_part_and_leaves_room_for_others(keeping: Keeping) -> None:
    for number in range(700):
        keeping.refuse("flood", number)
    keeping.refuse("quiet", 1, "invalid_value")
    await keeping.recorder.flush()
    assert (50, 1, 650) == (await keeping.length("flood"), await keeping.length("quiet"), keeping.dropped)
    assert [("rate_limited", 700), ("invalid_value", 1)] == (await keeping.listed.counts())[1]
    for number in range(100):
        for owner in range(40):
            keeping.refuse(f"t{owner}", number)
    assert 650 + 4000 - 1000 == keeping.dropped  # no more than 1,000 wait


async def test_a_tenant_and_all_together_have_a_bound_and_small_ones_keep_theirs(keeping: Keeping) -> None:
    await keeping.write("full", 1000)
    keeping.refuse("full", 1)
    await keeping.recorder.flush()
    assert 1000 == await keeping.length("full")
    for number in range(12):
        await keeping.write(f"t{number}", 1000)
    await keeping.write("small", 3)
    await keeping.recorder.trim()
    sizes = [await keeping.length(tenant) for tenant in ("full", *(f"t{number}" for number in range(12)), "small")]
    assert [*[(10_000 - 3) // 13] * 13, 3] == sizes


async def test_what_is_older_than_a_week_is_neither_shown_nor_kept(keeping: Keeping) -> None:
    keeping.refuse()
    await keeping.recorder.flush()
    keeping.now_s += KEEP_S + 60
    assert [] == await keeping.page()
    await keeping.recorder.trim()
    assert (0, []) == (await keeping.length("acme"), await keeping.redis.zrange(owners_record("ig3"), 0, -1))


async def test_tenants_beyond_the_bound_lose_theirs_the_longest_quiet_first(keeping: Keeping) -> None:
    pipeline = keeping.redis.pipeline(transaction=False)
    for number in range(502):
        pipeline.xadd(record(keeping.redis, f"t{number}", "refusals"), {"request_id": "a", "code": "internal"})
        pipeline.zadd(owners_record("ig3"), {f"t{number}": number})
    await pipeline.execute()
    await keeping.recorder.trim()
    assert [0, 0, 1] == [await keeping.length(f"t{number}") for number in range(3)]
    assert 500 == await keeping.redis.zcard(owners_record("ig3"))


@pytest.mark.parametrize(
    ("sizes", "most", "share"), [([], 10, 0), ([1, 2], 10, 2), ([5, 5, 1], 10, 4), ([9, 9, 9], 9, 3), ([1, 1], 1, 0)]
)
def test_the_largest_give_way(sizes: list[int], most: int, share: int) -> None:
    assert share == fair_share(sizes, most)
    assert sum(min(size, share) for size in sizes) <= most
