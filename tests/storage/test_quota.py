"""The bytes of each tenant on a real Redis: within its quota, and no longer counted once they expire."""

import asyncio
from typing import Any

import pytest
import redis

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Tenant
from gateway.redis import Client, execute
from gateway.storage.quota import HOUR_S, StorageQuota, StorageTerms
from gateway.tenants.records import write_tenant
from tests.support.admissions import connected
from tests.support.clocked import Clock, clocked_script

pytestmark = pytest.mark.anyio

TERMS = StorageTerms(24, 1000)
NOW_S = 4_000_000_000.0  # later than the server's own clock, by which keys expire
KEYS = ["ig3:{acme}:tenant", "ig3:{acme}:stored", "ig3:{acme}:erasing"]


async def put_terms(client: Client, keep_hours: int | None = None, storage_bytes: int | None = None) -> None:
    tenant = Tenant("acme", keep_hours=keep_hours, storage_bytes=storage_bytes)
    for field, value in write_tenant(tenant).items():
        await execute(client, client.hset("ig3:{acme}:tenant", field, value), int)


async def test_a_quota_is_exact_when_many_store_at_once(each_redis: str) -> None:
    async with connected(each_redis) as one, connected(each_redis) as other:
        quotas = [StorageQuota(client, TERMS) for client in (one, other)]
        takes = [quotas[number % 2].take("acme", 30) for number in range(60)]
        results = await asyncio.gather(*takes, return_exceptions=True)
        refusals = [found for found in results if isinstance(found, GatewayError)]
        assert [ErrorCode.STORAGE_QUOTA_EXHAUSTED] * 27 == [found.error_code for found in refusals]
        assert "1000 bytes" in refusals[0].message
        assert 990 == await quotas[0].stored_bytes("acme", 0)
        await quotas[0].take("other", 30)


async def test_a_tenants_own_terms_come_first(redis_url: str) -> None:
    async with connected(redis_url) as client:
        quota = StorageQuota(client, TERMS)
        plain = await quota.take("acme", 1)
        await put_terms(client, keep_hours=48, storage_bytes=10)
        assert plain + 24 * HOUR_S == await quota.take("acme", 1)
        assert plain - 23 * HOUR_S == await quota.take("acme", 1, keep_s=HOUR_S)
        with pytest.raises(GatewayError):
            await quota.take("acme", 8)
        await put_terms(client, storage_bytes=0)
        with pytest.raises(GatewayError):
            await quota.take("acme", 1)
        await put_terms(client)
        assert plain == await quota.take("acme", 997)


async def test_bytes_are_given_back_and_those_of_a_growing_object_join_its_hour(redis_url: str) -> None:
    async with connected(redis_url) as client:
        quota = StorageQuota(client, TERMS)
        expires_s = await quota.take("acme", 600, keep_s=50 * HOUR_S)
        assert expires_s == await quota.take("acme", 300, expires_s=expires_s)
        await quota.give_back("acme", 600, expires_s)
        assert 300 == await quota.stored_bytes("acme", 0)
        await quota.give_back("acme", 900, expires_s)
        assert {} == await execute(client, client.hgetall("ig3:{acme}:stored"), dict[str, str])


async def test_nothing_is_stored_for_a_tenant_while_it_is_erased(redis_url: str) -> None:
    async with connected(redis_url) as client:
        quota = StorageQuota(client, TERMS)
        await quota.take("acme", 1000)
        await quota.begin_erasure("acme", 4_000_000_000)
        assert 4_000_000_000 == await quota.erasing_since("acme")
        with pytest.raises(GatewayError) as refused:
            await quota.take("acme", 1)
        assert ErrorCode.STORAGE_UNAVAILABLE is refused.value.error_code
        await quota.take("other", 1000)
        await quota.end_erasure("acme")
        assert await quota.erasing_since("acme") is None
        await quota.take("acme", 1000)


def test_what_expires_is_no_longer_counted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        clock, take = Clock(client, NOW_S), clocked_script(client, "storage/take_room")

        def taken(size: int, keep_s: int = 0) -> Any:
            return take(KEYS, [size, keep_s, 24, 1000, 0])

        hour = int(NOW_S // HOUR_S)
        assert [hour + 25, 1000] == taken(600)
        assert [hour + 2, 1000] == taken(400, HOUR_S)
        assert [0, 1000] == taken(1)
        clock.set((hour + 2) * HOUR_S - 1)
        assert [0, 1000] == taken(1)
        clock.advance(1)
        assert [hour + 26, 1000] == taken(400)
        assert {str(hour + 25): "600", str(hour + 26): "400"} == client.hgetall(KEYS[1])
        assert (hour + 26) * HOUR_S == client.expiretime(KEYS[1])


def test_a_full_hour_is_kept_to_its_end_and_no_count_has_more_fields_than_hours(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        clock, take = Clock(client, NOW_S - NOW_S % HOUR_S), clocked_script(client, "storage/take_room")
        for _ in range(100):
            assert [int(clock.now_s) // HOUR_S + 24, 1000] == take(KEYS, [1, 0, 24, 1000, 0])
            assert client.hlen(KEYS[1]) <= 24
            clock.advance(HOUR_S)
