"""Redis, and nothing else touches Redis.

Every key; what stands in braces is its hash tag.

| key | type | TTL | owner: what |
|---|---|---|---|
| ig3:pepper | string | none | credentials: key of the keyed hashes, unless set |
| ig3:tenants | set | none | tenants: names |
| ig3:{NAME}:tenant | hash | none | tenants: models, disabled, limits, weight, ... |
| ig3:{NAME}:keys | hash | none | tenant_keys: key id -> JSON: mac, label, limits, ... |
| ig3:{NAME}:revoked_keys | set | none | tenant_keys: declared ones that a person revoked |
| ig3:{NAME}:audit | stream | `[audit]` | changes: one entry an admin change |
| ig3:key:ID | string | to its expiry | tenant_keys: whose key has this public id |
| ig3:revoked | channel |  | changes: "@NAME" to forget what is cached of a tenant |
| ig3:alive | string | a minute | inspection: written to see whether it can be |
| ig3:preflight | channel |  | inspection: whether messages are passed on |
| ig3:provisioned_tenants | set | none | declared: names that the configuration declares |
| ig3:provisioning_digest | string | none | declared: digest of what was applied last |
| ig3:{NAME}:reservation:ID | hash | 40 days; settled 15 min, by expiry 7 days | admission: see lua/admit.lua |
| ig3:{NAME}:recent | hash | 20 minutes idle | admission: 5 minutes -> tickets settled in them |
| ig3:{NAME}:open | sorted set | 40 days idle | admission: tickets not settled, by expiry |
| ig3:{NAME}:transfers | sorted set | two leases | transfers: see lua/transfer.lua; also ...key:ID:transfers |
| ig3:{NAME}:rate | hash | 2 minutes idle | admission: second -> requests and images |
| ig3:{NAME}:day:YYYYMMDD | hash | 3 days idle | admission: what is charged or reserved |
| ig3:{NAME}:month:YYYYMM | hash | 40 days idle | admission: likewise |
| ig3:{NAME}:key:ID:open, ... |  | likewise | admission: the last four, of a single key |
| ig3:{NAME}:ledger:YYYYMMDD | stream | `[ledger]` | admission: one entry a settled request that was sent |
| ig3:{NAME}:sums:YYYYMMDD | hash | none | admission: "KEYID|MEASURE|MODEL" -> integer |
| ig3:{NAME}:days | sorted set | none | admission: days that have sums |
| ig3:{NAME}:records_end | hash | none | admission: day -> Unix second until which its records are kept |
| ig3:recovery_leader | string | 3 rounds | sweeper: which process sweeps |
| ig3:pool:PROCESS | channel |  | pool: ids of waiting requests that were given a lease |
| ig3:key_check_leader | string | a round | pool: which process probes keys, see pool/turns.py |
| ig3:{pool:UPSTREAM}:NAME |  | 40 days idle, most | pool: see pool/scripts.py |

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
_AWAY: Final = (RedisError, RedisClusterException, OSError)
_NOT_RUN: Final = (
    CallNotStartedError,
    NotConnectedError,
    MasterNotFoundError,
    AuthenticationError,
    BusyLoadingError,
    RedisClusterException,
)
"""Errors of a command that no server ran. After any other it may have run."""
_CHANGES: Final = frozenset({"tenants/compare_and_set", "scheduler/members"})
"""The scripts in which an administrator's commands take effect, each command with one run of one."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Change:
    may_be_made: bool = False


_CHANGE: Final[ContextVar[_Change | None]] = ContextVar("change", default=None)
"""The administrator's command that is being carried out."""

Value = str | bytes | int | float
Script = Callable[[list[str], list[Value]], Awaitable[object]]


def connect(url: str, timeout_s: float, login: Credentials = Credentials()) -> Client:  # noqa: B008 - immutable
    """A client for any of FORMS, whose every call through `answer` or a script has `timeout_s`, from its turn on.

    A cluster's client has the commands of a server's, and is said to be one here because redis-py has no name for that.
    Raises: ValueError for a URL that is none, without repeating it.
    """
    return cast("Client", build(parse_address(url), login, timeout_s))


def load_script(redis: Client, name: str, shared: Sequence[str] = (), tables: str = "") -> Script:
    """`ROOM/lua/NAME.lua`, after `tables` and what it shares with others.

    It is run by its hash, and sent in full to a server that lacks it.

    All keys must be in one slot of a cluster: they share what stands in braces.
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
    """The source of `ROOM/lua/NAME.lua`, after tables that Python has too, and the scripts that it shares code with."""
    paths = (part.split("/") for part in (*shared, name))
    parts = [(files("gateway") / room / "lua" / f"{script}.lua").read_text("utf-8") for room, script in paths]
    return "\n".join([tables, *parts] if tables else parts)


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """The one seam: whatever keeps Redis from answering is REDIS_UNAVAILABLE."""
    try:
        yield
    except _AWAY as error:
        raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, f"{type(error).__name__}: {error}") from error


@contextmanager
def translate_change_errors() -> Iterator[None]:
    """Replaces REDIS_UNAVAILABLE in an admin command by an error that tells whether a change may have been made.

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
    """The answer of one call, of the type that it has with `decode_responses`: redis-py's own types are wider.

    It comes within the client's deadline once it is its turn (see guard.py), at once while Redis is known to be away.
    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    del kind
    with translate_redis_errors():
        return await redis.guard.run(cast("Coroutine[object, object, _T]", call))


async def ping(redis: Client) -> None:
    """Raises: GatewayError REDIS_UNAVAILABLE."""
    await execute(redis, redis.ping(), bool)
