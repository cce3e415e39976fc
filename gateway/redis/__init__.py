"""The Redis client, script loading and error translation. No other module imports redis-py's client.

All Redis keys, with the default `[redis] key_prefix`. Braces mark the hash tag.

| key | type | TTL | owner: what |
|---|---|---|---|
| ig3:pepper | string | none | authentication: key of the keyed hashes, unless configured |
| ig3:tenants | set | none | store: tenant names |
| ig3:{NAME}:tenant | hash | none | store: models, disabled, limits, weight, ... |
| ig3:{NAME}:keys | hash | none | api_keys: key ID -> JSON: keyed hash, label, limits, ... |
| ig3:{NAME}:revoked_keys | set | none | api_keys: configured keys that an operator revoked |
| ig3:{NAME}:audit | stream | `[audit]` | transactions: one entry per admin change |
| ig3:key:ID | string | until the key expires | api_keys: tenant that owns the key ID |
| ig3:revoked | channel |  | transactions: cache invalidation; a key ID, or "@NAME" for a whole tenant |
| ig3:alive | string | 1 minute | preflight: write check |
| ig3:preflight | channel |  | preflight: pub/sub check |
| ig3:provisioned_tenants | set | none | provisioning: names of the configured tenants |
| ig3:provisioning_digest | string | none | provisioning: digest of the last applied configuration |
| ig3:{NAME}:reservation:ID | hash | 40 days; settled 15 min, by expiry 7 days | admission: see lua/admit.lua |
| ig3:{NAME}:recent | hash | 20 minutes idle | admission: 5-minute bucket -> reservations settled in it |
| ig3:{NAME}:open | sorted set | 40 days idle | admission: unsettled reservations by expiry |
| ig3:{NAME}:transfers | sorted set | two leases | transfers: see lua/transfer.lua; also ...key:ID:transfers |
| ig3:{NAME}:rate | hash | 2 minutes idle | admission: second -> requests and images |
| ig3:{NAME}:day:YYYYMMDD | hash | 3 days idle | admission: charged and reserved amounts |
| ig3:{NAME}:month:YYYYMM | hash | 40 days idle | admission: charged and reserved amounts |
| ig3:{NAME}:key:ID:open, ... |  | as the tenant's | admission: the last four, of one API key |
| ig3:{NAME}:ledger:YYYYMMDD | stream | `[ledger]` | settlement: one entry per settled request that was sent |
| ig3:{NAME}:sums:YYYYMMDD | hash | none | settlement: "KEYID|MEASURE|MODEL" -> integer |
| ig3:{NAME}:days | sorted set | none | settlement: days that have sums |
| ig3:{NAME}:records_end | hash | none | settlement: day -> Unix second at which its records expire |
| ig3:recovery_leader | string | 3 rounds | recovery: process that settles expired reservations |
| ig3:pool:PROCESS | channel |  | scheduler: IDs of waiting requests that got a lease |
| ig3:key_check_leader | string | 1 round | key_checker: process that checks provider keys |
| ig3:{pool:UPSTREAM}:NAME |  | 40 days idle, most | scheduler: see scheduler/scripts.py |

`2` is the version of this schema.
"""

import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeVar, cast

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisClusterException, RedisError

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.client import Client, build
from gateway.redis.connections import NotConnectedError
from gateway.redis.pipelining import LoadedScript
from gateway.redis.url import FORMS, Credentials, parse_address

__all__ = [
    "FORMS",
    "PREFIX",
    "Client",
    "Credentials",
    "Script",
    "Value",
    "connect",
    "execute",
    "load_script",
    "ping",
    "script_text",
    "translate_change_errors",
    "translate_redis_errors",
]

PREFIX: Final = "ig3"
"""Default of `[redis] key_prefix`."""
_AWAY: Final = (RedisError, RedisClusterException, OSError)
_NOT_RUN: Final = (
    CallNotStartedError,
    NotConnectedError,
    MasterNotFoundError,
    AuthenticationError,
    BusyLoadingError,
    RedisClusterException,
)
"""Errors raised before a command reached a server. After any other error the command may have run."""
_CHANGES: Final = frozenset({"tenants/compare_and_set", "scheduler/members"})
"""Scripts that apply admin changes; each admin change runs exactly one of them."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Change:
    may_be_made: bool = False


_CHANGE: Final[ContextVar[_Change | None]] = ContextVar("change", default=None)
"""The admin change in progress."""

Value = str | bytes | int | float
Script = Callable[[list[str], list[Value]], Awaitable[object]]


def connect(url: str, timeout_s: float, login: Credentials = Credentials(), prefix: str = PREFIX) -> Client:  # noqa: B008 - immutable
    """Returns a client for any of FORMS. Every call through `execute` or a script has the deadline `timeout_s`.

    `prefix` and a colon begin the name of every key and channel.
    A cluster client is typed as `Client`: it has the same commands, and redis-py has no common type.
    Raises: ValueError if the URL is invalid. The message does not include the URL, which may hold a password.
    """
    return cast("Client", build(parse_address(url), login, timeout_s, prefix))


def load_script(redis: Client, name: str, shared: Sequence[str] = (), tables: str = "") -> Script:
    """Loads `ROOM/lua/NAME.lua`, preceded by `tables` and the `shared` scripts.

    Scripts run by EVALSHA; a server that lacks the script gets it in full.

    In a cluster all keys must be in one slot, so they share one hash tag.
    """
    text = script_text(name, shared, tables)
    script = LoadedScript(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text)

    async def run(keys: list[str], args: list[Value]) -> object:
        with translate_redis_errors():
            return await redis.scripts.run(script, keys, args)

    async def run_change(keys: list[str], args: list[Value]) -> object:
        found = await run(keys, args)
        if change := _CHANGE.get():
            change.may_be_made = True
        return found

    return run_change if name in _CHANGES else run


def script_text(name: str, shared: Sequence[str] = (), tables: str = "") -> str:
    """Returns the source of `ROOM/lua/NAME.lua`, preceded by `tables` and the `shared` scripts."""
    paths = (part.split("/") for part in (*shared, name))
    parts = [(files("gateway") / room / "lua" / f"{script}.lua").read_text("utf-8") for room, script in paths]
    return "\n".join([tables, *parts] if tables else parts)


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Translates every Redis failure into REDIS_UNAVAILABLE. The only place that does."""
    try:
        yield
    except _AWAY as error:
        raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, f"{type(error).__name__}: {error}") from error


@contextmanager
def translate_change_errors() -> Iterator[None]:
    """Translates REDIS_UNAVAILABLE in an admin command into an error that states if a change may have been made.

    Raises: GatewayError CHANGE_UNCONFIRMED, CHANGE_NOT_MADE, and what the command raises.
    """
    change = _Change()
    token = _CHANGE.set(change)
    try:
        yield
    except GatewayError as error:
        if error.error_code is not ErrorCode.REDIS_UNAVAILABLE:
            raise
        may_be_made = change.may_be_made or not isinstance(error.__cause__, _NOT_RUN)
        error_code = ErrorCode.CHANGE_UNCONFIRMED if may_be_made else ErrorCode.CHANGE_NOT_MADE
        raise GatewayError(error_code, error.detail) from error
    finally:
        _CHANGE.reset(token)


async def execute(redis: Client, call: object, kind: type[_T]) -> _T:
    """Returns the reply of one call as its `decode_responses` type; redis-py's own types are wider.

    The call has the client's deadline (see call_guard.py). It fails immediately while the circuit breaker is open.
    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    del kind
    with translate_redis_errors():
        return await redis.guard.run(cast("Coroutine[object, object, _T]", call))


async def ping(redis: Client) -> None:
    """Sends PING. Raises: GatewayError REDIS_UNAVAILABLE."""
    await execute(redis, redis.ping(), bool)
