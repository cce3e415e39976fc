import asyncio
import time
from dataclasses import replace

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Limits
from tests.support.administering import OPS, declared, generate_api_key, storing

pytestmark = pytest.mark.anyio


async def test_redis_forgets_an_expiring_key_by_itself(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        lasting, ending = await stores.key(), await stores.key(expires_at=int(time.time()) + 60)
        assert -1 == await stores.redis.ttl(f"ig3:key:{lasting.key.id}")
        assert 0 < await stores.redis.ttl(f"ig3:key:{ending.key.id}") <= 60


async def test_keys_are_listed_in_order_until_they_are_revoked(each_redis: str) -> None:
    now = 100.0
    async with storing(each_redis, clock=lambda: now) as stores:
        await stores.tenant()
        await stores.tenant("beta")
        first = await stores.key(label="first")
        now = 200.0
        second = await stores.key(label="second")
        assert [first.key, second.key] == await stores.keys.list_keys("acme")
        assert first.key == await stores.keys.get(first.key.id)
        await stores.keys.revoke(first.key.id, OPS)
        assert [second.key] == await stores.keys.list_keys("acme")
        assert [] == await stores.keys.list_keys("beta")


async def test_keys_of_one_second_are_listed_by_label(each_redis: str) -> None:
    async with storing(each_redis, clock=lambda: 100.0) as stores:
        await stores.tenant()
        for label in "dbca":
            await stores.key(label=label)
        assert [*"abcd"] == [key.label for key in await stores.keys.list_keys("acme")]


async def test_every_key_made_while_others_list_is_listed(each_redis: str) -> None:
    """A listing strikes off expired keys, and must not take a new one for such."""
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        is_done = False

        async def list_on() -> None:
            while not is_done:
                await other.keys.list_keys("acme")

        listing = [asyncio.create_task(list_on()) for _ in range(4)]
        made = [(await one.key()).key.id for _ in range(40)]
        is_done = True
        await asyncio.gather(*listing)
        assert sorted(made) == sorted(key.id for key in await one.keys.list_keys("acme"))


async def test_an_expired_key_is_gone_and_its_record_struck_off(each_redis: str) -> None:
    now = time.time()
    async with storing(each_redis, clock=lambda: now) as stores:
        await stores.tenant()
        lasting, ending = await stores.key(), await stores.key(expires_at=int(now) + 60)
        now += 61
        with pytest.raises(GatewayError) as caught:
            await stores.keys.get(ending.key.id)
        assert ErrorCode.NOT_FOUND is caught.value.error_code
        assert [lasting.key] == await stores.keys.list_keys("acme")
        assert 1 == await stores.redis.hlen("ig3:{acme}:keys")
        assert 3 == len(await stores.audit())


async def test_a_change_keeps_the_secret_and_is_audited(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        made = await stores.key()
        after = await stores.keys.update(made.key.id, lambda key: replace(key, label="web", limits=Limits(9)), OPS)
        assert replace(made.key, label="web", limits=Limits(9)) == after == await stores.keys.get(made.key.id)
        assert after == (await stores.credentials.identify(f"Bearer {made.secret}")).key
        entry = (await stores.audit())[-1]
    assert ("key.update", made.key.id, {}, {"requests_per_minute": 9}) == (
        entry["action"],
        entry["key_id"],
        entry["before"]["limits"],
        entry["after"]["limits"],
    )


@pytest.mark.parametrize(("first", "second"), [(None, 60), (60, 600), (600, 60), (60, None)])
async def test_an_expiry_moves_both_ways(each_redis: str, first: int | None, second: int | None) -> None:
    start = int(time.time())
    now = float(start)
    async with storing(each_redis, clock=lambda: now, monotonic=lambda: 0.0) as stores:
        await stores.tenant()
        made = await stores.key(expires_at=first and start + first)
        await stores.keys.update(made.key.id, lambda key: replace(key, expires_at=second and start + second), OPS)
        ttl = await stores.redis.ttl(f"ig3:key:{made.key.id}")
        assert ttl == -1 if second is None else 0 < ttl <= second
        now = start + (second or 10_000) - 1.0
        assert None is await stores.fault_of(made.secret)
        now += 1.0
        assert (None if second is None else ErrorCode.INVALID_API_KEY) is await stores.fault_of(made.secret)


async def test_a_rotation_lets_both_keys_in_until_the_grace_ends(each_redis: str) -> None:
    now = 1_000.0
    async with (
        storing(each_redis, clock=lambda: now, monotonic=lambda: 0.0) as stores,
        storing(each_redis, clock=lambda: now) as other,
    ):
        await stores.tenant()
        old = await stores.key(label="web")
        new = await stores.keys.rotate(old.key.id, 60, OPS)
        assert replace(old.key, old_secret_until=1_060) == new.key
        assert old.secret != new.secret
        assert old.secret[:16] == new.secret[:16]
        now = 1_059.9
        for asked in (stores, other):
            assert [None, None] == [await asked.fault_of(made.secret) for made in (old, new)]
        now = 1_060.0
        for asked in (stores, other):
            assert [ErrorCode.INVALID_API_KEY, None] == [await asked.fault_of(made.secret) for made in (old, new)]


async def test_a_second_rotation_ends_the_first_old_key(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        first = await stores.key()
        second = await stores.keys.rotate(first.key.id, 600, OPS)
        third = await stores.keys.rotate(first.key.id, 600, OPS)
        error_codes = [await stores.fault_of(made.secret) for made in (first, second, third)]
    assert [ErrorCode.INVALID_API_KEY, None, None] == error_codes


async def test_a_rotation_without_grace_ends_the_old_key_at_once(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        old = await stores.key()
        new = await stores.keys.rotate(old.key.id, 0, OPS)
        assert [ErrorCode.INVALID_API_KEY, None] == [await stores.fault_of(made.secret) for made in (old, new)]


async def test_of_many_rotations_at_once_exactly_two_keys_are_left(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        await one.tenant()
        key = (await one.key()).key
        made = await asyncio.gather(*(stores.keys.rotate(key.id, 600, OPS) for stores in (one, other) * 10))
        let_in = [new for new in made if await one.fault_of(new.secret) is None]
        assert 2 == len(let_in)
        assert 20 == (await one.actions()).count(("ops", "key.rotate"))


async def test_a_revocation_ends_the_old_key_of_a_rotation_too(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant()
        old = await stores.key()
        new = await stores.keys.rotate(old.key.id, 600, OPS)
        await stores.keys.revoke(old.key.id, OPS)
        error_codes = [await stores.fault_of(made.secret) for made in (old, new)]
        assert [ErrorCode.INVALID_API_KEY] * 2 == error_codes
        assert [] == [name async for name in stores.redis.scan_iter("ig3:key:*")]


async def test_a_declared_key_is_not_rotated_but_in_the_configuration(each_redis: str) -> None:
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        await stores.declaration(declared(secrets=[secret])).apply()
        with pytest.raises(GatewayError, match="is configured") as caught:
            await stores.keys.rotate(secret[6:16], 0, OPS)
        assert ErrorCode.INVALID_VALUE is caught.value.error_code
        assert None is await stores.fault_of(secret)


async def test_no_secret_and_no_hash_is_in_the_audit(each_redis: str) -> None:
    async with storing(each_redis, pepper="canary-pepper") as stores:
        await stores.tenant()
        made = await stores.key(label="web")
        new = await stores.keys.rotate(made.key.id, 600, OPS)
        await stores.keys.update(made.key.id, lambda key: replace(key, label="shop"), OPS)
        await stores.declaration(declared("zeta", [generate_api_key()])).apply()
        records = [await stores.redis.hgetall(name) async for name in stores.redis.scan_iter("*:keys")]
        await stores.keys.revoke(made.key.id, OPS)
        entries = [await stores.redis.xrange(name) async for name in stores.redis.scan_iter("*:audit")]
    hidden = [made.secret[16:], new.secret[16:], "canary-pepper", "mac"]
    hashes = [word for word in str(records).split('"') if len(word) == 64]
    assert 3 == len(hashes)
    assert [] == [secret for secret in hidden + hashes if secret in str(entries)]
    assert "key.rotate" in str(entries)
