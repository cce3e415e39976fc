"""The Redis client, script loading and error translation. No other module imports redis-py's client.

All Redis keys, with the default `[redis] key_prefix`. Braces mark the hash tag.

| key | type | TTL | owner: what |
|---|---|---|---|
| ig3:pepper | string | none | authentication: key of the keyed hashes, unless configured |
| ig3:tenants | set | none | store: IDs of tenants, which are their first names |
| ig3:{ig3:tenants}:names | hash | none | names: later name of a renamed tenant -> its ID |
| ig3:{NAME}:tenant | hash | none | store: models, disabled, limits, weight, ... |
| ig3:{NAME}:keys | hash | none | api_keys: key ID -> JSON: keyed hash, label, limits, ... |
| ig3:{NAME}:revoked_keys | set | none | api_keys: configured keys that an operator revoked |
| ig3:{NAME}:audit | stream | `[audit]` | transactions: one entry per admin change |
| ig3:{NAME}:key:ID:used_at | string | 400 days idle | authentication: Unix second of the key's last recorded use |
| ig3:key:ID | string | until the key expires | api_keys: tenant that owns the key ID |
| ig3:purges | hash | none | purge: ID of a tenant that is being deleted for good -> its pseudonym |
| ig3:purge_leader | string | 1 minute | purge: process that deletes tenants for good |
| ig3:revoked | channel |  | transactions: cache invalidation; a key ID, or "@NAME" for a whole tenant |
| ig3:time_zone | string | none | metering: IANA name of the zone of quotas and the ledger |
| ig3:alive | string | 1 minute | preflight: write check |
| ig3:preflight | channel |  | preflight: pub/sub check |
| ig3:provisioned_tenants | set | none | provisioning: names of the configured tenants |
| ig3:provisioning_digest | string | none | provisioning: digest of the last applied configuration |
| ig3:{NAME}:reservation:ID | hash | 40 days; settled 15 min, by expiry 7 days | admission: see lua/admit.lua |
| ig3:{NAME}:notice:NAME | string | 40 days | notices: the last forecast, and the last notice of a key |
| ig3:{NAME}:credit:ID | hash | 40 days | credits: the credit that an admin gave under an ID |
| ig3:{NAME}:recent | hash | 20 minutes idle | admission: 5-minute bucket -> reservations settled in it |
| ig3:{NAME}:open | sorted set | 40 days idle | admission: unsettled reservations by expiry |
| ig3:{NAME}:batch_open | sorted set | 40 days idle | admission: those of `open` that are lines of batches |
| ig3:{NAME}:transfers | sorted set | two leases | transfers: see lua/transfer.lua; also ...key:ID:transfers |
| ig3:{NAME}:rate | hash | 2 minutes idle | admission: second -> requests and images |
| ig3:{NAME}:day:YYYYMMDD | hash | 3 days idle | admission: charged and reserved amounts, credits, alerts |
| ig3:{NAME}:month:YYYYMM | hash | 40 days idle | admission: the same |
| ig3:{NAME}:key:ID:open, ... |  | as the tenant's | admission: open, batch_open, rate, day and month, of one API key |
| ig3:{NAME}:ledger:YYYYMMDD | stream | `[ledger]` | settlement: one entry per settled request that was sent |
| ig3:{NAME}:sums:YYYYMMDD | hash | none | settlement: "KEYID|MEASURE|MODEL" -> integer |
| ig3:{NAME}:batch_sums:YYYYMMDD | hash | `[ledger]` | settlement: "BATCHID|KEYID|MEASURE|MODEL" -> integer |
| ig3:{NAME}:split_sums:YYYYMMDD | hash | `[ledger]` | settlement: by tag, user and others; see lua/split_sums.lua |
| ig3:{NAME}:days | sorted set | none | settlement: days that have sums |
| ig3:{NAME}:records_end | hash | none | settlement: day -> Unix second at which its records expire |
| ig3:{NAME}:closed | hash | none | closing: closed month -> JSON: cost centre, owner and tags at that time |
| ig3:closings | hash | none | closing: month -> JSON: totals, digests of the exports, who closed it and when |
| ig3:{NAME}:idempotency:HASH | hash | `[replays]` | admission: see lua/repeats.lua |
| ig3:{NAME}:idempotency_keys | hash | `[replays]` twice | admission: new keys by 1/24 of their retention |
| ig3:{NAME}:orders:REQUEST | sorted set | 15 minutes idle | admission: orders that a retry may join |
| ig3:{NAME}:unknown:REQUEST | string | `[replays]` | settlement: order of a request whose outcome is unknown |
| ig3:{NAME}:outcome:ID, result:ID | strings | `[replays]` | jobs: what a repeated request gets, and its images |
| ig3:{NAME}:results | hash | `[replays]` twice | jobs: bytes of stored images; also ig3:results, of all tenants |
| ig3:{NAME}:files | hash | until the last file expires | jobs: file ID -> JSON; see jobs/lua/add_file.lua |
| ig3:{NAME}:file_expiries | sorted set | as files | jobs: file ID -> expiry |
| ig3:{NAME}:file_keys | hash | as files | jobs: Idempotency-Key of an upload -> its fingerprint and file |
| ig3:{NAME}:deleted_file:ID | string | 1 hour | jobs: where a deleted file stood in a list |
| ig3:{NAME}:stored | hash | until the last object expires | storage: hour of expiry -> bytes stored |
| ig3:{NAME}:deleting | set | 31 days | storage: IDs of pictures that are being deleted and no longer count |
| ig3:link_keys | hash | 8 weeks | storage: week -> key that signs links, unless configured |
| ig3:{NAME}:erasing | string | 31 days | storage: when the erasure of the tenant began, while it lasts |
| ig3:erased_tenants | set | 31 days | storage: tenants whose objects the reaper is to delete |
| ig3:deleted_outputs | sorted set | 31 days | jobs: "NAME OBJECT" of deleted output files, by when the reaper goes on |
| ig3:storage_leader | string | 1 round | storage: process that deletes expired objects |
| ig3:batches | sorted set | none | batches: "NAME ID" of batches that have not ended, by creation |
| ig3:{NAME}:batches | sorted set | 32 days | batches: IDs by creation; also ...:batches_open, _failed, _bytes |
| ig3:{NAME}:batch:ID, ... |  | 32 days, lines 3 days | batches: see jobs/batches.py; also ...:batch_lines |
| ig3:{NAME}:idempotency:batches:HASH | hash | 1 day | batches: the batch that a key created |
| ig3:{NAME}:refusals | stream | 7 days idle | refusals: requests that were refused; at most 1,000 |
| ig3:{refusals:}:refusals | stream | 7 days idle | refusals: the same, without a tenant |
| ig3:{refusals:}:owners | sorted set | 7 days idle | refusals: tenants with refusals, by the last one; about 500 |
| ig3:{refusals:}:counts:YYYYMMDDHH | hash | 2 days | refusals: error code -> refusals in an hour, UTC |
| ig3:refusals_leader | string | 1 minute | refusals: process that trims them |
| ig3:events, ig3:{NAME}:events | stream | none | events: about 10,000 each; see events/outbox.py |
| ig3:events_announced | sorted set | 7 days idle | events: tenants whose stream is to be read, by time |
| ig3:events_leader | string | 15 s | events: process that delivers them |
| ig3:{console:}:NAME | hashes, sorted sets | a session's longest time, a link's day | sessions: sessions and links |
| ig3:{events:}:NAME |  | 30 days idle, most | events: endpoints and deliveries; see events/deliveries.py |
| ig3:jobs:PROCESS | channel |  | jobs: IDs of orders whose outcome the process is to store |
| ig3:notice_leader | string | 1 hour | notices: process that checks budgets and keys that expire |
| ig3:recovery_leader | string | 3 rounds | recovery: process that settles expired reservations |
| ig3:pool:PROCESS | channel |  | scheduler: IDs of waiting requests that got a lease |
| ig3:key_check_leader | string | 1 round | key_checks: process that checks provider keys |
| ig3:{pool:UPSTREAM}:NAME |  | 40 days idle, most | scheduler: see scheduler/scripts.py |

`2` is the version of this schema.
"""

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib.resources import files
from typing import Final, TypeVar, cast

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisClusterException
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis.call_guard import CallNotStartedError, translate_redis_errors
from gateway.redis.client import FORMS, PREFIX, Client, Credentials, connect
from gateway.redis.connections import LoadedScript, NotConnectedError, Value

__all__ = [
    "FORMS",
    "KEY_CHECK_LEADER",
    "PREFIX",
    "STORAGE_LEADER",
    "Client",
    "Credentials",
    "LeaderLock",
    "Script",
    "Value",
    "connect",
    "execute",
    "load_script",
    "ping",
    "scan_keys",
    "script_text",
    "subscribe",
    "translate_change_errors",
    "translate_redis_errors",
    "watched",
]

KEY_CHECK_LEADER: Final = "key_check_leader"
STORAGE_LEADER: Final = "storage_leader"
"""Lock for checking unhealthy provider keys."""
_NOT_RUN: Final = (
    CallNotStartedError,
    NotConnectedError,
    MasterNotFoundError,
    AuthenticationError,
    BusyLoadingError,
    RedisClusterException,
)
"""Errors raised before a command reached a server. After any other error the command may have run."""
_CHANGES: Final = frozenset(
    {"tenants/compare_and_set", "scheduler/members", "metering/credit", "events/change_endpoint"}
)
"""Scripts that apply admin changes; each admin change runs exactly one of them."""
_MADE: Final[ContextVar[set[str] | None]] = ContextVar("made", default=None)
"""Those that ran in the admin change in progress."""
_SCANNED: Final = 1000
"""Keys that one call looks at."""
_T = TypeVar("_T")

Script = Callable[[list[str], list[Value]], Awaitable[object]]


def load_script(redis: Client, name: str, shared: Sequence[str] = (), tables: str = "") -> Script:
    """Loads `ROOM/lua/NAME.lua`, preceded by `tables` and the `shared` scripts.

    In a cluster all keys must be in one slot, so they share one hash tag.
    """
    text = script_text(name, shared, tables)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    run: Script = partial(redis.scripts.run, LoadedScript(digest, text))

    async def run_change(keys: list[str], args: list[Value]) -> object:
        reply = await run(keys, args)
        if (made := _MADE.get()) is not None:
            made.add(name)
        return reply

    return run_change if name in _CHANGES else run


def watched(script: Script, on_break: Callable[[], None]) -> Script:
    """Calls `on_break` when a connection breaks: Redis may have restarted. A late reply says nothing."""

    async def run(keys: list[str], args: list[Value]) -> object:
        try:
            return await script(keys, args)
        except GatewayError as error:
            was_sent = not isinstance(error.__cause__, CallNotStartedError)
            if isinstance(error.__cause__, RedisConnectionError) and was_sent:
                on_break()
            raise

    return run


def script_text(name: str, shared: Sequence[str] = (), tables: str = "") -> str:
    """Returns the source of `ROOM/lua/NAME.lua`, preceded by `tables` and the `shared` scripts."""
    paths = (part.split("/") for part in (*shared, name))
    parts = [(files("gateway") / room / "lua" / f"{script}.lua").read_text("utf-8") for room, script in paths]
    return "\n".join([tables, *parts] if tables else parts)


@contextmanager
def translate_change_errors() -> Iterator[None]:
    """Translates REDIS_UNAVAILABLE in an admin command into an error that states if a change may have been made.

    Raises: GatewayError CHANGE_UNCONFIRMED, CHANGE_NOT_MADE, and what the command raises.
    """
    made: set[str] = set()
    token = _MADE.set(made)
    try:
        yield
    except GatewayError as error:
        if error.error_code is not ErrorCode.REDIS_UNAVAILABLE:
            raise
        may_be_made = made or not isinstance(error.__cause__, _NOT_RUN)
        error_code = ErrorCode.CHANGE_UNCONFIRMED if may_be_made else ErrorCode.CHANGE_NOT_MADE
        raise GatewayError(error_code, error.detail) from error
    finally:
        _MADE.reset(token)


async def execute(redis: Client, call: object, kind: type[_T]) -> _T:
    """Returns the reply of one call as its `decode_responses` type; redis-py's own types are wider.

    The call has the client's deadline (see call_guard.py). It fails immediately while the circuit breaker is open.
    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    del kind
    with translate_redis_errors():
        return await redis.guard.run(cast("Coroutine[object, object, _T]", call))


async def subscribe(redis: Client, channel: str) -> AsyncGenerator[str | None]:
    """Yields the messages of a channel, after None for the subscription: earlier messages are lost.

    Raises: GatewayError REDIS_UNAVAILABLE, UnicodeDecodeError for a message of another program.
    """
    async with redis.pubsub() as messages:
        with translate_redis_errors():
            await messages.subscribe(channel)
            while True:
                message = await messages.get_message(timeout=30.0)
                if message:
                    yield str(message["data"]) if message["type"] == "message" else None


async def scan_keys(redis: Client, pattern: str) -> AsyncGenerator[list[str]]:
    """Yields the keys that match, in parts, from every server. Raises: GatewayError REDIS_UNAVAILABLE."""
    primaries = getattr(redis, "get_primaries", None)  # of a cluster
    for target in [{"target_nodes": node} for node in primaries()] if primaries else [{}]:
        cursor: object = 0
        while True:
            scan: Callable[..., object] = redis.execute_command
            call = scan("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED, **target)
            cursor, names = await execute(redis, call, tuple[object, list[str]])
            if isinstance(cursor, dict):
                cursor = next(iter(cursor.values()), 0)
            yield names
            if not cursor:
                break


async def ping(redis: Client) -> None:
    """Sends PING. Raises: GatewayError REDIS_UNAVAILABLE."""
    await execute(redis, redis.ping(), bool)


class LeaderLock:
    """Elects one process per `every_s`. A dead leader loses the lock within `every_s`."""

    def __init__(self, redis: Client, name: str, own_id: str, every_s: float) -> None:
        self._redis = redis
        self._name = f"{redis.prefix}:{name}"
        self._own_id = own_id
        self._ttl_ms = max(1, round(every_s * 1000))

    async def acquire(self) -> bool:
        """Returns True if this process became the leader. Raises: GatewayError REDIS_UNAVAILABLE."""
        acquired = self._redis.set(self._name, self._own_id, nx=True, px=self._ttl_ms)
        return bool(await execute(self._redis, acquired, object))

    async def renew(self) -> bool:
        """Extends the lock by `every_s`; False if this process lost it. Raises: GatewayError REDIS_UNAVAILABLE."""
        if await execute(self._redis, self._redis.get(self._name), object) != self._own_id:
            return False
        return bool(await execute(self._redis, self._redis.pexpire(self._name, self._ttl_ms), bool))

    async def release(self) -> None:
        """Gives the lock up; without effect if this process lost it. Raises: GatewayError REDIS_UNAVAILABLE."""
        if await execute(self._redis, self._redis.get(self._name), object) == self._own_id:
            await execute(self._redis, self._redis.delete(self._name), object)
