import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from redis.asyncio import Redis

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.tenants import Tenant
from gateway.stores import connect
from gateway.stores.tenants import TenantStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def storing(
    url: str,
    *,
    pepper: str | None = None,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[TenantStore, Redis]]:
    redis = connect(url, 2.0)
    try:
        yield TenantStore(redis, pepper=pepper, clock=clock, monotonic=monotonic), redis
    finally:
        await redis.aclose()


async def fault_of(store: TenantStore, authorization: str | None) -> Fault | None:
    try:
        await store.identify(authorization)
    except GatewayError as error:
        return error.fault
    return None


async def test_a_key_identifies_its_tenant(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        acme = await store.create(Tenant("acme", frozenset({"image-01"}), created_at=7))
        made = await store.create_key("acme", "laptop")
        caller = await store.identify(f"Bearer {made.secret}")
    assert made.secret.startswith("sk-ig-")
    assert (acme, made.key.id) == (caller.tenant, caller.key_id)


async def test_another_process_knows_the_key_too(each_redis: str) -> None:
    async with storing(each_redis) as (one, _), storing(each_redis) as (other, _):
        await one.create(Tenant("acme"))
        made = await one.create_key("acme", "")
        assert "acme" == (await other.identify(f"Bearer {made.secret}")).tenant.name


async def test_processes_that_start_at_once_agree_on_the_pepper(each_redis: str) -> None:
    async with storing(each_redis) as (one, _), storing(each_redis) as (other, _):
        await one.create(Tenant("acme"))
        made = await asyncio.gather(*(store.create_key("acme", "") for store in (one, other) * 10))
        assert [None] * 20 == [await fault_of(one, f"Bearer {new.secret}") for new in made]
        assert [None] * 20 == [await fault_of(other, f"Bearer {new.secret}") for new in made]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "sk-ig-abc", "Token x"])
async def test_without_a_bearer_there_are_no_credentials(each_redis: str, header: str | None) -> None:
    async with storing(each_redis) as (store, _):
        assert Fault.NO_CREDENTIALS is await fault_of(store, header)


@pytest.mark.parametrize(
    "secret",
    ["x", "sk-ig-", "sk-ig-" + "a" * 42, "sk-ig-" + "ä" * 42, "sk-" + "a" * 45, "sk-ig-" + "{" * 42, "\x00" * 48],
)
async def test_a_key_that_was_never_given_out_is_refused_and_not_repeated(each_redis: str, secret: str) -> None:
    async with storing(each_redis) as (store, _):
        with pytest.raises(GatewayError) as caught:
            await store.identify(f"Bearer {secret}")
    assert Fault.INVALID_API_KEY is caught.value.fault
    assert len(secret) < 17 or secret not in str(caught.value)


async def test_a_right_id_with_a_wrong_secret_is_refused_also_while_the_right_one_is_cached(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        await store.create(Tenant("acme"))
        secret = (await store.create_key("acme", "")).secret
        await store.identify(f"Bearer {secret}")
        wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        assert Fault.INVALID_API_KEY is await fault_of(store, f"Bearer {wrong}")


async def test_the_scheme_is_not_case_sensitive(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        await store.create(Tenant("acme"))
        secret = (await store.create_key("acme", "")).secret
        assert [None, None] == [await fault_of(store, f"{scheme} {secret}") for scheme in ("bearer", "BEARER")]


async def test_redis_holds_no_key_and_no_plain_hash_of_one(each_redis: str) -> None:
    async with (
        storing(each_redis, pepper="pepper") as (store, redis),
        storing(each_redis, pepper="other") as (other, _),
    ):
        await store.create(Tenant("acme"))
        made = await store.create_key("acme", "laptop")
        record = str(await redis.hgetall(f"ig1:key:{made.key.id}"))
        names = " ".join([name async for name in redis.scan_iter("*")])
        assert Fault.INVALID_API_KEY is await fault_of(other, f"Bearer {made.secret}")
    assert made.secret[16:] not in record + names
    assert "ig1:pepper" not in names


@pytest.mark.parametrize("by_other", [False, True])
async def test_a_revoked_key_is_refused_within_a_second_without_any_message(each_redis: str, *, by_other: bool) -> None:
    """Nobody listens here: the cached entry must end by itself."""
    now = 0.0
    async with storing(each_redis, monotonic=lambda: now) as (store, _), storing(each_redis) as (other, _):
        await store.create(Tenant("acme"))
        made = await store.create_key("acme", "")
        await store.identify(f"Bearer {made.secret}")
        await (other if by_other else store).revoke(made.key.id)
        now = 0.999 if by_other else 0.0
        assert Fault.INVALID_API_KEY is await fault_of(store, f"Bearer {made.secret}")


async def listening(group: anyio.abc.TaskGroup, store: TenantStore, redis: Redis) -> None:
    group.start_soon(store.listen)
    with anyio.fail_after(10):
        while (await redis.pubsub_numsub("ig1:revoked"))[0][1] < 1:  # noqa: ASYNC110 - seen from outside only
            await anyio.sleep(0.005)


async def eventually(store: TenantStore, header: str, fault: Fault | None) -> None:
    with anyio.fail_after(10):
        while await fault_of(store, header) is not fault:  # noqa: ASYNC110 - seen from outside only
            await anyio.sleep(0.005)


@pytest.mark.parametrize("act", ["revoke", "disable"])
async def test_a_message_revokes_at_once_in_other_processes(each_redis: str, act: str) -> None:
    """The clock of the cache stands still, so only the message can have done it."""
    async with storing(each_redis, monotonic=lambda: 0.0) as (store, redis), storing(each_redis) as (other, _):
        await other.create(Tenant("acme"))
        made = await other.create_key("acme", "")
        async with anyio.create_task_group() as group:
            await listening(group, store, redis)
            await store.identify(f"Bearer {made.secret}")
            await (other.revoke(made.key.id) if act == "revoke" else other.update("acme", is_disabled=True))
            await eventually(store, f"Bearer {made.secret}", Fault.INVALID_API_KEY)
            group.cancel_scope.cancel()


async def test_the_listener_survives_the_loss_of_its_connection(each_redis: str) -> None:
    async with storing(each_redis, monotonic=lambda: 0.0) as (store, redis), storing(each_redis) as (other, _):
        await other.create(Tenant("acme"))
        made = await other.create_key("acme", "")
        async with anyio.create_task_group() as group:
            await listening(group, store, redis)
            await redis.client_kill_filter(_type="pubsub")
            with anyio.fail_after(10):
                while (await redis.pubsub_numsub("ig1:revoked"))[0][1] < 1:  # noqa: ASYNC110 - seen from outside only
                    await anyio.sleep(0.005)
            await store.identify(f"Bearer {made.secret}")
            await other.revoke(made.key.id)
            await eventually(store, f"Bearer {made.secret}", Fault.INVALID_API_KEY)
            group.cancel_scope.cancel()


async def test_a_disabled_tenant_keeps_its_keys_for_when_it_comes_back(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        await store.create(Tenant("acme"))
        header = f"Bearer {(await store.create_key('acme', '')).secret}"
        await store.update("acme", is_disabled=True)
        assert Fault.INVALID_API_KEY is await fault_of(store, header)
        await store.update("acme", is_disabled=False)
        assert None is await fault_of(store, header)


async def test_an_expired_key_is_refused_also_while_cached(each_redis: str) -> None:
    start = int(time.time())
    now = float(start)
    async with storing(each_redis, clock=lambda: now, monotonic=lambda: 0.0) as (store, _):
        await store.create(Tenant("acme"))
        made = await store.create_key("acme", "", start + 60)
        header = f"Bearer {made.secret}"
        now = start + 59.9
        assert None is await fault_of(store, header)
        now = start + 60.0
        assert Fault.INVALID_API_KEY is await fault_of(store, header)


async def test_redis_forgets_an_expiring_key_by_itself(each_redis: str) -> None:
    async with storing(each_redis) as (store, redis):
        await store.create(Tenant("acme"))
        lasting, ending = await store.create_key("acme", ""), await store.create_key("acme", "", int(time.time()) + 60)
        assert -1 == await redis.ttl(f"ig1:key:{lasting.key.id}")
        assert 0 < await redis.ttl(f"ig1:key:{ending.key.id}") <= 60


async def test_of_many_at_once_one_creates_the_tenant(each_redis: str) -> None:
    async with storing(each_redis) as (one, _), storing(each_redis) as (other, _):
        calls = [store.create(Tenant("acme", created_at=7)) for store in (one, other) * 25]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert 1 == sum(isinstance(outcome, Tenant) for outcome in outcomes)
    assert {Fault.CONFLICT} == {outcome.fault for outcome in outcomes if isinstance(outcome, GatewayError)}


@pytest.mark.parametrize("models", [None, frozenset(), frozenset({"image-01", "漫画"})])
async def test_a_tenant_is_kept_as_it_was_created(each_redis: str, models: frozenset[str] | None) -> None:
    tenant = Tenant("acme", models, is_disabled=True, created_at=1_700_000_000)
    async with storing(each_redis) as (store, _):
        await store.create(tenant)
        assert tenant == await store.get("acme")


async def test_an_update_changes_what_is_given_and_nothing_else(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        await store.create(Tenant("acme", frozenset({"a"}), created_at=7))
        assert Tenant("acme", frozenset({"a"}), is_disabled=True, created_at=7) == await store.update(
            "acme", is_disabled=True
        )
        assert Tenant("acme", None, is_disabled=True, created_at=7) == await store.update("acme", models=None)
        assert Tenant("acme", None, is_disabled=True, created_at=7) == await store.update("acme")


async def test_tenants_and_keys_are_listed_in_order(each_redis: str) -> None:
    now = 100.0
    async with storing(each_redis, clock=lambda: now) as (store, _):
        for name in ("zeta", "acme", "beta"):
            await store.create(Tenant(name))
        assert ["acme", "beta", "zeta"] == [tenant.name for tenant in await store.list_tenants()]
        first = await store.create_key("acme", "first")
        now = 200.0
        second = await store.create_key("acme", "second")
        assert [first.key, second.key] == await store.list_keys("acme")
        await store.revoke(first.key.id)
        assert [second.key] == await store.list_keys("acme")
        assert [] == await store.list_keys("beta")


async def test_what_does_not_exist_is_not_found(each_redis: str) -> None:
    async with storing(each_redis) as (store, _):
        for call in (
            store.get("nobody"),
            store.update("nobody", is_disabled=True),
            store.update("nobody"),
            store.create_key("nobody", ""),
            store.list_keys("nobody"),
            store.revoke("0123456789"),
        ):
            with pytest.raises(GatewayError) as caught:
                await call
            assert Fault.NOT_FOUND is caught.value.fault


async def test_without_redis_nobody_is_told_that_the_key_is_wrong() -> None:
    async with storing("unix:///nowhere/redis.sock") as (store, _):
        assert Fault.REDIS_AWAY is await fault_of(store, "Bearer sk-ig-" + "a" * 42)


async def test_a_key_made_after_redis_lost_everything_works_everywhere(each_redis: str) -> None:
    """The pepper is lost too: whoever makes the next key must leave one in Redis, and the others must find it."""
    async with storing(each_redis) as (one, redis), storing(each_redis) as (other, _):
        await one.create(Tenant("acme"))
        await other.identify(f"Bearer {(await one.create_key('acme', '')).secret}")
        await redis.flushall()
        await one.create(Tenant("acme"))
        made = await one.create_key("acme", "")
        assert "acme" == (await other.identify(f"Bearer {made.secret}")).tenant.name
    async with storing(each_redis) as (started_later, _):
        assert "acme" == (await started_later.identify(f"Bearer {made.secret}")).tenant.name


async def test_every_key_made_while_others_list_is_listed(each_redis: str) -> None:
    """A listing strikes off the ids of expired keys, and must not take a new one for such."""
    async with storing(each_redis) as (one, _), storing(each_redis) as (other, _):
        await one.create(Tenant("acme"))
        is_done = False

        async def list_on() -> None:
            while not is_done:
                await other.list_keys("acme")

        listing = [asyncio.create_task(list_on()) for _ in range(4)]
        made = [(await one.create_key("acme", "")).key.id for _ in range(40)]
        is_done = True
        await asyncio.gather(*listing)
        assert sorted(made) == sorted(key.id for key in await one.list_keys("acme"))
