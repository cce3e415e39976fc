import asyncio
from typing import Any

import pytest

from gateway.tenants.audit import Audit, pool_owner
from gateway.tenants.merged_streams import Cursor
from tests.support.administering import Stores, storing

pytestmark = pytest.mark.anyio


async def put(stores: Stores, owner: str, entry_id: str, action: str = "x", key_id: str = "") -> None:
    told = {"actor": "ops", "action": action, "request_id": "", "key_id": key_id, "before": "", "after": ""}
    fields: dict[Any, Any] = {**told}
    await stores.redis.sadd("ig3:tenants", owner)
    await stores.redis.xadd(f"ig3:{{{owner}}}:audit", fields, entry_id)


async def pages(stores: Stores, limit: int, owners: set[str] | None = None) -> list[list[str]]:
    """Every page, by the cursors of one after the other."""
    audit, names = Audit(stores.redis), owners or await stores.tenants.names()
    found: list[list[str]] = []
    before: Cursor | None = None
    while True:
        page = await audit.page(names, limit, before)
        found.append([str(entry["action"]) for entry in page.entries])
        if page.next is None:
            return found
        before = Cursor.parse(str(page.next))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8, 100])
async def test_the_tenants_entries_are_one_list_whatever_the_page(each_redis: str, limit: int) -> None:
    """The newest first; entries of one millisecond, of one tenant and of several, come once each."""
    told = {"acme": ["1-0", "5-0", "5-1", "9-0"], "beta": ["5-0", "7-3"], "zeta": ["5-0"]}
    async with storing(each_redis) as stores:
        for tenant, ids in told.items():
            for entry_id in ids:
                await put(stores, tenant, entry_id, f"{entry_id}@{tenant}")
        found = await pages(stores, limit)
    expected = ["9-0@acme", "7-3@beta", "5-1@acme", "5-0@zeta", "5-0@beta", "5-0@acme", "1-0@acme"]
    assert expected == [action for page in found for action in page]
    assert {limit} >= {len(page) for page in found[:-1]}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_acts_on_the_pool_stand_among_the_others(each_redis: str, limit: int) -> None:
    """A tenant may be called as an upstream is: they are two streams."""
    owners = {"sim", pool_owner("sim"), pool_owner("302ai")}
    async with storing(each_redis) as stores:
        for owner, entry_id in (("sim", "5-0"), ("pool:sim", "1-0"), ("pool:sim", "5-0"), ("pool:302ai", "9-0")):
            await put(stores, owner, entry_id, f"{entry_id}@{owner}")
        found = [action for page in await pages(stores, limit, owners) for action in page]
    assert ["9-0@pool:302ai", "5-0@sim", "5-0@pool:sim", "1-0@pool:sim"] == found


async def test_an_act_on_the_pool_names_its_target_and_no_tenant(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await put(stores, "pool:sim", "1-0", key_id="main/main-1")
        await put(stores, "pool:sim", "2-0", key_id="main")
        await put(stores, "acme", "3-0", key_id="0123456789")
        entries = await stores.audit("acme", "pool:sim")
    expected = [(None, None, "sim/main/main-1"), (None, None, "sim/main"), ("acme", "0123456789", None)]
    assert expected == [(entry["tenant"], entry["key_id"], entry["target"]) for entry in entries]


async def test_the_newest_of_many_tenants_are_found(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await asyncio.gather(*(put(stores, f"t{number}", f"{number + 1}-0", str(number)) for number in range(450)))
        found = await pages(stores, 100)
    assert [str(number) for number in reversed(range(450))] == [action for page in found for action in page]


async def test_an_empty_audit_is_one_empty_page(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        assert [[]] == await pages(stores, 10)


async def test_old_entries_are_dropped(each_redis: str) -> None:
    """Trimming is by whole nodes of a stream, so that it costs nothing: 100 entries a node by default."""
    async with storing(each_redis) as stores:
        for number in range(1000):
            await put(stores, "beta", f"{number + 1}-0")
        await stores.redis.hset("ig3:{beta}:tenant", mapping={"created_at": "1"})
        await stores.key("beta")
        assert 100 > await stores.redis.xlen("ig3:{beta}:audit")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1-0",
        "1-0@",
        "@acme",
        "1-0@A",
        "x-0@acme",
        "1-0@acme ",
        "1-0@acme\n",
        "1-0@pool:",
        "1-0@a:b",
        "1" * 20 + "-0@acme",
        "0-0@acme",
    ],
)
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert None is Cursor.parse(text)
