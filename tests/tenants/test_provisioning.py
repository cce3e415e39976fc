import asyncio
import time
from dataclasses import replace

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.domain.audit import CONFIGURATION
from gateway.domain.errors import ErrorCode
from gateway.domain.tenants import Limits, Quotas, Tenant
from gateway.tenants.provisioning import ProvisionedTenant
from tests.support.administering import OPS, Stores, declared, declared_key, generate_api_key, storing

pytestmark = pytest.mark.anyio

BY_CONFIGURATION = CONFIGURATION.name


async def dump(stores: Stores) -> dict[str, str]:
    """Everything that Redis holds, to see whether anything was changed."""
    return {name: repr(await content(stores, name)) async for name in stores.redis.scan_iter("*")}


async def content(stores: Stores, name: str) -> object:
    match await stores.redis.type(name):
        case "hash":
            return sorted((await stores.redis.hgetall(name)).items())
        case "set":
            return sorted(await stores.redis.smembers(name))
        case "stream":
            return await stores.redis.xrange(name)
        case _:
            return await stores.redis.get(name)


async def test_a_declared_tenant_is_there_with_its_keys(each_redis: str) -> None:
    secret = generate_api_key()
    limits, quotas = Limits(60, 120, 10), Quotas(500, 10_000, 50_000_000)
    wanted = declared(secrets=[secret], models=frozenset({"image-01"}), limits=limits, quotas=quotas, weight=3)
    async with storing(each_redis, clock=lambda: 77.0) as stores:
        await stores.declaration(wanted).apply()
        caller = await stores.credentials.identify(f"Bearer {secret}")
        assert replace(wanted.tenant, created_at=77) == caller.tenant == await stores.tenants.get("acme")
        assert replace(wanted.keys[0].key, created_at=77) == caller.key
        assert [(BY_CONFIGURATION, "tenant.create"), (BY_CONFIGURATION, "key.create")] == await stores.actions()


async def test_applying_again_changes_nothing(each_redis: str) -> None:
    wanted = declared(secrets=[generate_api_key(), generate_api_key()], limits=Limits(5))
    async with storing(each_redis) as stores, storing(each_redis) as other:
        await stores.declaration(wanted, declared("zeta")).apply()
        before = await dump(stores)
        await stores.declaration(wanted, declared("zeta")).apply()
        await other.declaration(wanted, declared("zeta")).apply()
        assert before == await dump(stores)


@pytest.mark.parametrize("pepper", [None, "pepper"])
async def test_many_processes_at_once_apply_once(each_redis: str, pepper: str | None) -> None:
    wanted = [
        declared(name, [generate_api_key(), generate_api_key()], limits=Limits(7)) for name in ("acme", "beta", "zeta")
    ]
    async with storing(each_redis, pepper=pepper) as one, storing(each_redis, pepper=pepper) as other:
        old = declared("acme", [generate_api_key()])
        await one.declaration(old, declared("gone")).apply()
        await asyncio.gather(*(stores.declaration(*wanted).apply() for stores in (one, other) * 8))
        told = sorted(action for _, action in (await one.actions()))
        callers = [len(await one.keys.list_keys(entry.tenant.name)) for entry in wanted]
    expected = ["tenant.create"] * 4 + ["key.create"] * 7 + ["tenant.update", "tenant.disable", "key.revoke"]
    assert sorted(expected) == told
    assert [2, 2, 2] == callers


async def test_a_change_of_the_declaration_is_taken_over_without_touching_counters(each_redis: str) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        await stores.declaration(declared(secrets=[secret], limits=Limits(5))).apply()
        await stores.redis.set("ig3:{acme}:day:20260101", "7")
        changed = ProvisionedTenant(
            Tenant("acme", limits=Limits(9), is_declared=True), (declared_key(secret, label="web", limits=Limits(1)),)
        )
        await stores.declaration(changed).apply()
        caller = await stores.credentials.identify(f"Bearer {secret}")
        assert (Limits(9), Limits(1), "web") == (caller.tenant.limits, caller.key.limits, caller.key.label)
        assert ["tenant.update", "key.update"] == [action for _, action in (await stores.actions())[2:]]
        assert "7" == await stores.redis.get("ig3:{acme}:day:20260101")


async def test_a_key_that_is_declared_no_longer_is_revoked_and_others_are_not(each_redis: str) -> None:
    first, second = generate_api_key(), generate_api_key()
    async with storing(each_redis) as stores:
        await stores.declaration(declared(secrets=[first, second])).apply()
        by_hand = await stores.key(label="made by a person")
        await stores.declaration(declared(secrets=[second])).apply()
        error_codes = [await stores.fault_of(secret) for secret in (first, second, by_hand.secret)]
        assert [ErrorCode.INVALID_API_KEY, None, None] == error_codes
        await stores.declaration(declared(secrets=[first, second])).apply()
        assert None is await stores.fault_of(first)


async def test_a_tenant_that_is_declared_no_longer_is_disabled_and_comes_back(each_redis: str) -> None:
    secret = generate_api_key()
    both = [declared("acme"), declared("beta", [secret])]
    async with storing(each_redis) as stores:
        await stores.tenant("by-hand")
        await stores.declaration(*both).apply()
        await stores.declaration(both[0]).apply()
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)
        retired = await stores.tenants.get("beta")
        assert (True, BY_CONFIGURATION, False) == (retired.is_disabled, retired.disabled_by, retired.is_declared)
        assert [False, False] == [(await stores.tenants.get(name)).is_disabled for name in ("acme", "by-hand")]
        await stores.declaration(*both).apply()
        assert None is await stores.fault_of(secret)


async def test_the_last_tenant_that_is_declared_no_longer_is_disabled_too(each_redis: str) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        await stores.tenant("by-hand")
        await stores.declaration(declared(secrets=[secret])).apply()
        await stores.declaration().apply()
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)
        retired = await stores.tenants.get("acme")
        assert (True, BY_CONFIGURATION, False) == (retired.is_disabled, retired.disabled_by, retired.is_declared)
        assert not (await stores.tenants.get("by-hand")).is_disabled
        before = await dump(stores)
        await stores.declaration().apply()
        assert before == await dump(stores)


async def test_a_declared_key_that_a_person_revoked_stays_revoked(each_redis: str) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        declaration = stores.declaration(declared(secrets=[secret]))
        await declaration.apply()
        await stores.keys.revoke(secret[6:16], OPS)
        before = await dump(stores)
        with capture_logs() as logged:
            await declaration.apply()
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)
        assert before == await dump(stores)
    [told] = [entry for entry in logged if entry["log_level"] == "warning"]
    assert ("configured_key_revoked", "acme", secret[6:16]) == (told["event"], told["tenant"], told["key"])


async def test_of_a_revocation_and_an_application_at_once_the_revocation_wins(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        for _ in range(30):
            secret = generate_api_key()
            await one.declaration(declared(secrets=[secret])).apply()
            moved = ProvisionedTenant(Tenant("acme", is_declared=True), (declared_key(secret, label="other"),))
            await asyncio.gather(other.declaration(moved).apply(), one.keys.revoke(secret[6:16], OPS))
            await other.declaration(moved).apply()
            assert ErrorCode.INVALID_API_KEY is await one.fault_of(secret)


@pytest.mark.parametrize("configured", [False, True])
async def test_a_tenant_that_a_person_disabled_stays_so_until_a_person_enables_it(
    each_redis: str, *, configured: bool
) -> None:
    async with storing(each_redis) as stores:
        declaration = stores.declaration(declared(is_disabled=configured))
        await stores.declaration(declared()).apply()
        await stores.tenants.update("acme", lambda had: replace(had, is_disabled=True, disabled_by="eve"), OPS)
        await declaration.apply()
        found = await stores.tenants.get("acme")
        assert (True, "eve") == (found.is_disabled, found.disabled_by)
        await stores.tenants.update("acme", lambda had: replace(had, is_disabled=False, disabled_by=""), OPS)
        await declaration.apply()
        assert configured is (await stores.tenants.get("acme")).is_disabled


async def test_a_tenant_and_a_key_made_by_the_api_can_be_declared_later(each_redis: str) -> None:
    """The key goes on opening; from then on both are the configuration's."""
    async with storing(each_redis) as stores:
        made = await stores.tenant(created_at=7)
        key = await stores.key(label="web")
        declaration = stores.declaration(declared(secrets=[key.secret], limits=Limits(3)))
        await declaration.apply()
        caller = await stores.credentials.identify(f"Bearer {key.secret}")
        assert replace(made, limits=Limits(3), is_declared=True) == caller.tenant
        assert (True, key.key.created_at) == (caller.key.is_declared, caller.key.created_at)


async def test_a_key_moves_from_one_tenant_to_another(each_redis: str) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        await stores.declaration(declared("acme", [secret]), declared("beta")).apply()
        for owner, other in (("beta", "acme"), ("acme", "beta")):
            await stores.declaration(declared(other), declared(owner, [secret])).apply()
            assert owner == (await stores.credentials.identify(f"Bearer {secret}")).tenant.name
            assert [] == await stores.keys.list_keys(other)
            await stores.declaration(declared(owner, [secret]), declared(other)).apply()
            assert owner == (await stores.credentials.identify(f"Bearer {secret}")).tenant.name


async def test_an_expired_declared_key_is_not_made_again(each_redis: str) -> None:
    now = time.time()
    async with storing(each_redis, clock=lambda: now) as stores:
        wanted = ProvisionedTenant(
            Tenant("acme", is_declared=True), (declared_key(generate_api_key(), expires_at=int(now) + 60),)
        )
        await stores.declaration(wanted).apply()
        now += 61
        await stores.keys.list_keys("acme")
        before = await dump(stores)
        await stores.declaration(wanted).apply()
        assert before == await dump(stores)


async def test_declared_tenants_come_back_when_redis_lost_its_memory(
    each_redis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores, storing(each_redis) as other:
        declaration = stores.declaration(declared(secrets=[secret]))
        await declaration.start()
        assert None is await other.fault_of(secret)
        async with anyio.create_task_group() as group:
            group.start_soon(declaration.run)
            await stores.redis.flushall()
            with anyio.fail_after(10):
                while not await other.redis.exists("ig3:provisioning_digest"):  # noqa: ASYNC110 - seen from outside only
                    await anyio.sleep(0.005)
            assert None is await other.fault_of(secret)
            group.cancel_scope.cancel()
    assert "redis_data_loss_detected" in capsys.readouterr().out


async def test_what_could_not_be_applied_at_the_start_is_applied_later(each_redis: str) -> None:
    """Redis says no for a while: it is out of memory."""
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        declaration = stores.declaration(declared(secrets=[secret]))
        await stores.redis.config_set("maxmemory", 1)
        try:
            await declaration.start()
            assert not await stores.redis.exists("ig3:provisioning_digest")
        finally:
            await stores.redis.config_set("maxmemory", 0)
        async with anyio.create_task_group() as group:
            group.start_soon(declaration.run)
            with anyio.fail_after(10):
                while await stores.fault_of(secret) is not None:  # noqa: ASYNC110 - seen from outside only
                    await anyio.sleep(0.005)
            group.cancel_scope.cancel()


async def test_another_processs_declaration_is_left_alone_until_this_one_is_applied_again(each_redis: str) -> None:
    """While a new configuration is rolled out, the processes with the old one do not fight it."""
    async with storing(each_redis) as old, storing(each_redis) as new:
        first, second = old.declaration(declared(limits=Limits(1))), new.declaration(declared(limits=Limits(2)))
        await first.apply()
        await second.apply()
        await first._check()
        assert Limits(2) == (await old.tenants.get("acme")).limits


async def test_a_reload_takes_the_place_of_the_declaration(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        declaration = stores.declaration(declared(limits=Limits(1)))
        await declaration.start()
        await declaration.reload([declared(limits=Limits(2))])
        await stores.redis.flushall()
        await declaration._check()
        assert Limits(2) == (await stores.tenants.get("acme")).limits
