"""Runs every kind of Redis call that the stores use."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Client, Credentials, connect, execute, load_script, ping, translate_redis_errors
from gateway.scheduler.scripts import PARTS

EMPTY_POOL = {"decision": "unknown", "version": 0}
_POOL_KEYS = 21
"""Of one upstream: the names in prelude.lua."""
NOBODY = Credentials()
WRITTEN = f"{PREFIX}:{{a}}:test"
"""The key that `written` writes."""


def without_cost(stream: str) -> str:
    """A response without the last comment of a stream: a replay costs nothing."""
    return stream.partition(": cost-usd ")[0]


@asynccontextmanager
async def connected(url: str, login: Credentials = NOBODY, timeout_s: float = 2.0) -> AsyncIterator[Client]:
    redis = connect(url, timeout_s, login)
    try:
        yield redis
    finally:
        await redis.aclose()


async def failure(redis: Client) -> str:
    """Returns why Redis does not reply; empty if it does."""
    with anyio.fail_after(20):
        try:
            await ping(redis)
        except GatewayError as error:
            return error.detail
    return ""


async def written(redis: Client, value: str, within_s: float = 60) -> bool:
    """Returns True once a write succeeds without intervention, within a limit."""
    with anyio.move_on_after(within_s):
        while True:
            try:
                await execute(redis, redis.set(WRITTEN, value), bool)
            except GatewayError:
                await asyncio.sleep(0.05)
            else:
                return True
    return False


async def lease(redis: Client, pool: str) -> object:
    """Runs one script on an upstream without accounts."""
    keys = [f"{PREFIX}:{{pool:{pool}}}:{number}" for number in range(_POOL_KEYS)]
    return json.loads(str(await load_script(redis, "scheduler/snapshot", PARTS["snapshot"])(keys, ["0"])))


async def check_everything(redis: Client) -> None:
    """Runs scripts, plain calls, pipelines over many tenants and pub/sub: everything that the stores use."""
    assert [EMPTY_POOL] * 8 == [await lease(redis, pool) for pool in "abcdefgh"]
    assert 2 == await execute(redis, redis.sadd(f"{PREFIX}:tenants", "a", "b"), int)
    assert {"a", "b"} == await execute(redis, redis.smembers(f"{PREFIX}:tenants"), set[str])
    pipeline = redis.pipeline(transaction=False)
    for name in "abcdefgh":
        pipeline.hset(f"{PREFIX}:{{{name}}}:tenant", "name", name)
        pipeline.hgetall(f"{PREFIX}:{{{name}}}:tenant")
    told = await execute(redis, pipeline.execute(), list[object])
    assert [item for name in "abcdefgh" for item in (1, {"name": name})] == told
    await check_messages(redis)


async def check_messages(redis: Client) -> None:
    async with redis.pubsub() as messages:
        with translate_redis_errors():
            await messages.subscribe(f"{PREFIX}:revoked")
        assert "subscribe" == (await messages.get_message(timeout=10) or {}).get("type")
        await execute(redis, redis.publish(f"{PREFIX}:revoked", "k1"), int)
        message = await messages.get_message(ignore_subscribe_messages=True, timeout=10)
    assert ("message", "k1") == ((message or {}).get("type"), (message or {}).get("data"))
