"""Redis, and nothing else touches Redis.

Every key; what stands in braces is its hash tag.

| key                              | type       | TTL           | owner      | what                                |
|----------------------------------|------------|---------------|------------|-------------------------------------|
| ig1:pepper                       | string     | none          | tenants.py | key of the keyed hashes, unless set |
| ig1:tenants                      | set        | none          | tenants.py | names                               |
| ig1:{NAME}:tenant                | hash       | none          | tenants.py | models, disabled, created_at        |
| ig1:{NAME}:keys                  | set        | none          | tenants.py | ids of the tenant's keys            |
| ig1:key:ID                       | hash       | to its expiry | tenants.py | tenant, mac, label, created_at, ... |
| ig1:revoked                      | channel    |               | tenants.py | ids of keys or "@NAME" to forget    |
| ig1:{pool:UPSTREAM:ROSTER}:turns | sorted set | 40 days idle   | keypool.py | see lua/lease.lua                   |
| ig1:{pool:UPSTREAM:ROSTER}:rests | hash       | 40 days idle   | keypool.py | see lua/release.lua                 |

`1` is the version of this schema. ROSTER is a digest of the configured keys, so that processes with different
configurations can run side by side, and a mended secret starts with a clean record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.domain.faults import Fault, GatewayError

PREFIX: Final = "ig1"
_CONNECTIONS_MAX: Final = 64
_T = TypeVar("_T")

Value = str | bytes | int | float
Script = Callable[[list[str], list[Value]], Awaitable[object]]


class Client(Redis):
    """redis-py's client, which knows the deadline of a call."""

    deadline_s: float = 0.0


def connect(url: str, timeout_s: float) -> Client:
    """A client with a bounded pool, whose every call through `answer` or a script ends within `timeout_s`.

    Raises: ValueError for a URL that redis-py does not understand.
    """
    parse_url(url)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS_MAX,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # One more try on a connection that the server closed while idle; a time-out is never waited for twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        decode_responses=True,
    )
    client = Client(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.deadline_s = timeout_s
    return client


def load_script(redis: Client, name: str) -> Script:
    """`lua/NAME.lua`, run by its hash and loaded again after a SCRIPT FLUSH."""
    script = redis.register_script((files(__package__) / "lua" / f"{name}.lua").read_text("utf-8"))

    async def run(keys: list[str], args: list[Value]) -> object:
        return await answer(redis, script(keys=keys, args=args), object)

    return run


@contextmanager
def redis_faults() -> Iterator[None]:
    """The one seam: whatever keeps Redis from answering is REDIS_AWAY."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise GatewayError(Fault.REDIS_AWAY, f"{type(error).__name__}: {error}") from error


async def answer(redis: Client, call: object, kind: type[_T]) -> _T:
    """The answer of one call, of the type that it has with `decode_responses`: redis-py's own types are wider.

    Waiting for a connection, connecting, sending and reading share one deadline. It does not rely on cancellation:
    under load redis-py's pool swallows some (of 200 calls to a frozen server up to 17 took three deadlines). The call
    that is given up ends by its own time-outs.
    Raises: GatewayError REDIS_AWAY.
    """
    del kind
    with redis_faults():
        task = asyncio.ensure_future(cast("Awaitable[_T]", call))
        try:
            await asyncio.wait({task}, timeout=redis.deadline_s)
            if task.done():
                return task.result()
        finally:
            if not task.done():
                task.add_done_callback(_look_away)
                task.cancel()
        raise TimeoutError(f"no answer in {redis.deadline_s:g} s")


def _look_away(task: "asyncio.Future[_T]") -> None:
    """Take note of how a call that was given up ended, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()


async def ping(redis: Client) -> None:
    """Raises: GatewayError REDIS_AWAY."""
    await answer(redis, redis.ping(), bool)
