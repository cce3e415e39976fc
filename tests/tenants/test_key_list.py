"""The keys of all tenants, in pages."""

import pytest

from gateway.domain.tenants import ApiKey, Quotas
from gateway.tenants.key_list import KeyList, KeyPlace, KeyView
from gateway.tenants.names import TenantNames
from gateway.tenants.records import use_record
from tests.support.administering import OPS, Stores, storing

pytestmark = pytest.mark.anyio
NOW_S = 1_800_000_000
DAY_S = 86_400


def listing(stores: Stores) -> KeyList:
    return KeyList(stores.redis, TenantNames(stores.redis), lambda: NOW_S)


async def labels(stores: Stores, limit: int = 1000, search: str = "", view: KeyView | None = None) -> list[str]:
    """Returns the labels of every page."""
    found: list[str] = []
    after: KeyPlace | None = None
    while True:
        page = await listing(stores).page(None, search, view, limit, after)
        assert len(page.keys) <= limit
        found += [key.label for key in page.keys]
        if page.next is None:
            return found
        after = KeyPlace.parse(str(page.next))
        assert after == page.next


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_have_every_key_of_every_tenant_once(each_redis: str, limit: int) -> None:
    async with storing(each_redis, clock=lambda: NOW_S) as stores:
        for number in range(103):  # more than one round trip
            await stores.tenant(f"tenant-{number:03}")
        for number in (0, 0, 0, 50, 102):
            await stores.key(f"tenant-{number:03}", f"of {number}")
        found = await labels(stores, limit)
    assert ["of 0", "of 0", "of 0", "of 50", "of 102"] == found


async def test_a_search_finds_label_id_and_tenant(each_redis: str) -> None:
    async with storing(each_redis, clock=lambda: NOW_S) as stores:
        await stores.tenant("acme")
        await stores.tenant("globex")
        made = (await stores.key("acme", "Web shop")).key
        await stores.key("globex", "batch")
        assert ["Web shop"] == await labels(stores, search="WEB")
        assert ["Web shop"] == await labels(stores, search=made.id)
        assert ["batch"] == await labels(stores, search="glob")
        assert [] == await labels(stores, search="nothing")


async def test_views_have_the_keys_that_need_attention(each_redis: str) -> None:
    old = NOW_S - 91 * DAY_S
    keys = {
        "plain": ApiKey("", "acme", "plain", NOW_S),
        "soon": ApiKey("", "acme", "soon", NOW_S, NOW_S + 13 * DAY_S, quotas=Quotas(images_per_day=1)),
        "later": ApiKey("", "acme", "later", NOW_S, NOW_S + 15 * DAY_S),
        "unused": ApiKey("", "acme", "unused", old, quotas=Quotas(images_per_day=1)),
        "used": ApiKey("", "acme", "used", old, quotas=Quotas(images_per_day=1)),
        "over": ApiKey("", "acme", "over", old, NOW_S - 1),
    }
    async with storing(each_redis, clock=lambda: NOW_S) as stores:
        await stores.tenant("acme")
        for label, key in keys.items():
            made = (await stores.keys.create(key, OPS)).key
            if label == "used":
                await stores.redis.set(use_record(stores.redis, "acme", made.id), NOW_S - 89 * DAY_S)
        found = {view: set(await labels(stores, view=view)) for view in KeyView}
        assert {"plain", "soon", "later", "unused", "used"} == set(await labels(stores))
    assert {"plain", "later"} == found[KeyView.UNLIMITED]
    assert {"plain", "unused", "used"} == found[KeyView.NEVER_EXPIRES]
    assert {"unused"} == found[KeyView.IDLE]
    assert {"soon"} == found[KeyView.EXPIRES_SOON]


async def test_a_page_that_reads_many_tenants_without_a_match_continues(each_redis: str) -> None:
    async with storing(each_redis, clock=lambda: NOW_S) as stores:
        await stores.redis.sadd("ig3:tenants", *(f"tenant-{number:04}" for number in range(5000)))
        await stores.tenant("zeta")
        await stores.key("zeta", "last")
        first = await listing(stores).page(None, "", None, 10, None)
        assert ((), KeyPlace("tenant-4999")) == (first.keys, first.next)
        assert ["last"] == await labels(stores)
