import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.domain.audit import Actor, describe_tenant
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import LIMIT_MAX, Limits, Quotas, Tenant
from tests.support.administering import OPS, Stores, storing

pytestmark = pytest.mark.anyio


def set_weight(weight: int) -> Callable[[Tenant], Tenant]:
    return lambda tenant: replace(tenant, weight=weight)


async def test_of_many_at_once_one_creates_the_tenant(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        calls = [stores.tenant(created_at=7) for stores in (one, other) * 25]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [("ops", "tenant.create")] == await one.actions()
    assert 1 == sum(isinstance(outcome, Tenant) for outcome in outcomes)
    assert {ErrorCode.CONFLICT} == {outcome.error_code for outcome in outcomes if isinstance(outcome, GatewayError)}


@pytest.mark.parametrize("models", [None, frozenset(), frozenset({"image-01", "漫画"})])
async def test_a_tenant_is_kept_as_it_was_created(each_redis: str, models: frozenset[str] | None) -> None:
    tenant = Tenant("acme", models, is_disabled=True, created_at=1_700_000_000, weight=3, disabled_by="ops")
    async with storing(each_redis) as stores:
        await stores.tenants.create(tenant, OPS)
        assert tenant == await stores.tenants.get("acme")


@pytest.mark.parametrize("value", [None, 0, 1, LIMIT_MAX])
async def test_every_limit_is_kept_exactly(each_redis: str, value: int | None) -> None:
    limits, quotas = Limits(value, value, value), Quotas(value, value, value and value * 1_000_000 - 1)
    async with storing(each_redis) as stores:
        await stores.tenant(limits=limits, quotas=quotas)
        kept = await stores.tenants.get("acme")
    assert (limits, quotas) == (kept.limits, kept.quotas)


async def test_an_update_changes_what_is_given_and_nothing_else(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        before = await stores.tenant(models=frozenset({"a"}), created_at=7, limits=Limits(5, 6, 7))
        after = replace(before, weight=4)
        assert after == await stores.tenants.update("acme", set_weight(4), OPS)
        assert after == await stores.tenants.get("acme")


async def test_what_changes_nothing_is_not_audited(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        await stores.tenants.update("acme", set_weight(1), OPS)
        assert [("ops", "tenant.create")] == await stores.actions()


async def test_of_many_changes_at_once_none_is_lost(each_redis: str) -> None:
    """Each raises the weight by one, from two processes: every one reads what the one before has written."""
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()

        def raised(tenant: Tenant) -> Tenant:
            return replace(tenant, weight=tenant.weight + 1)

        await asyncio.gather(*(stores.tenants.update("acme", raised, OPS) for stores in (one, other) * 20))
        assert 41 == (await one.tenants.get("acme")).weight
        weights = [(entry["before"]["weight"], entry["after"]["weight"]) for entry in (await one.audit())[1:]]
    assert [(weight, weight + 1) for weight in range(1, 41)] == weights


async def test_a_change_and_its_audit_entry_are_one_step(each_redis: str) -> None:
    """Whatever is read in between, there is as much in the audit as was changed."""
    async with storing(each_redis) as stores, storing(each_redis) as watcher:
        await stores.tenant()
        is_done = False

        async def watch() -> list[tuple[int, int]]:
            seen = []
            while not is_done:
                pipeline = watcher.redis.pipeline(transaction=True)
                pipeline.hget("ig3:{acme}:tenant", "weight")
                pipeline.xlen("ig3:{acme}:audit")
                weight, entries = await pipeline.execute()
                seen.append((int(weight), int(entries)))
            return seen

        watching = asyncio.create_task(watch())
        for weight in range(2, 60):
            await stores.tenants.update("acme", set_weight(weight), OPS)
        is_done = True
        seen = await watching
    assert [] == [entry for entry in seen if entry[0] != entry[1]]


async def test_the_audit_tells_who_did_what(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        made = await stores.tenant()
        await stores.tenants.update("acme", lambda _: Tenant("acme", is_disabled=True, disabled_by="eve"), Actor("eve"))
        await stores.tenants.update("acme", lambda _: made, Actor("ops", "req_9"))
        created, disabled, enabled = await stores.audit()
    assert {"actor": "ops", "action": "tenant.create", "request_id": "req_1", "before": None} == {
        name: created[name] for name in ("actor", "action", "request_id", "before")
    }
    assert describe_tenant(made) == created["after"] == disabled["before"] == enabled["after"]
    assert ("eve", "tenant.disable", None, "acme") == tuple(
        disabled[name] for name in ("actor", "action", "request_id", "tenant")
    )
    assert ("ops", "tenant.enable", "req_9") == tuple(enabled[name] for name in ("actor", "action", "request_id"))


async def test_tenants_are_listed_in_order(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        for name in ("zeta", "acme", "beta"):
            await stores.tenant(name)
        assert ["acme", "beta", "zeta"] == [tenant.name for tenant in await stores.tenants.list_tenants()]


async def test_many_tenants_are_listed(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await asyncio.gather(*(stores.tenant(f"tenant-{number}") for number in range(250)))
        assert 250 == len(await stores.tenants.list_tenants())


async def test_counters_are_not_touched_by_a_change(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        await stores.redis.set("ig3:{acme}:day:20260101", "7")
        await stores.tenants.update("acme", set_weight(9), OPS)
        assert "7" == await stores.redis.get("ig3:{acme}:day:20260101")


async def not_found(stores: Stores) -> list[ErrorCode]:
    found = []
    for call in (
        stores.tenants.get("nobody"),
        stores.tenants.update("nobody", set_weight(2), OPS),
        stores.key("nobody"),
        stores.keys.list_keys("nobody"),
        stores.keys.get("0123456789"),
        stores.keys.update("0123456789", lambda key: key, OPS),
        stores.keys.rotate("0123456789", 0, OPS),
        stores.keys.revoke("0123456789", OPS),
    ):
        with pytest.raises(GatewayError) as caught:
            await call
        found.append(caught.value.error_code)
    return found


async def test_what_does_not_exist_is_not_found_and_leaves_nothing(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        assert {ErrorCode.NOT_FOUND} == set(await not_found(stores))
        assert ["ig3:pepper"] == [name async for name in stores.redis.scan_iter("*")]
