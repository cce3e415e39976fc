"""Preflight checks of a Redis server: scripts allowed, no eviction, supported version.

Limits are exact only with scripts, and a server that evicts keys loses billing data.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeGuard

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from gateway.domain.errors import GatewayError
from gateway.redis import Client, execute, ping
from gateway.redis.call_guard import Outcome, judge

_OLDEST: Final = (6, 2)
_UNKNOWN_DIGEST: Final = "0" * 40
_NO_LOGIN: Final = ("NOAUTH", "HELLO must be called with the client already authenticated", "Authentication required")
_WRONG_LOGIN: Final = (
    "WRONGPASS",
    "invalid username-password pair",
    "Invalid Username or Password",
    "invalid password",
)


class _WriteRefusal(NamedTuple):
    codes: tuple[str, ...]
    """Codes of an error, or parts of redis-py's class for it."""
    reason: str
    is_temporary: bool = False
    """Whether the server accepts writes again without another configuration of the gateway."""


_WRITE_REFUSALS: Final = (
    _WriteRefusal(
        ("READONLY", "ReadOnly"), "redis is a read-only replica: use the address of its master, or redis+sentinel://"
    ),
    _WriteRefusal(
        ("MISCONF",),
        "redis refuses writes (MISCONF), as it could not save its data: see its log, and check its disk and its `dir`",
        is_temporary=True,
    ),
    _WriteRefusal(
        ("OOM", "OutOfMemory"), "redis refuses writes (OOM), as its memory is full: raise maxmemory", is_temporary=True
    ),
    _WriteRefusal(
        ("NOREPLICAS",),
        "redis refuses writes (NOREPLICAS), as it has too few replicas: see min-replicas-to-write",
        is_temporary=True,
    ),
    _WriteRefusal(("MASTERDOWN",), "redis is a replica without its master (MASTERDOWN): use the address of the master"),
    _WriteRefusal(
        ("CLUSTERDOWN", "ClusterDown"), "the cluster is down (CLUSTERDOWN): see CLUSTER INFO", is_temporary=True
    ),
    _WriteRefusal(
        ("NOPERM", "No permissions", "NoPermission"),
        "redis does not allow this user to write its keys: allow ~PREFIX:*",
    ),
)
_UNREACHABLE_INTERVAL_S: Final = 1.0
_ALIVE_S: Final = 60
_FAILED_INTERVAL_S: Final = 5.0
_PASSED_INTERVAL_S: Final = 30.0
"""A server that passed may restart with another configuration."""
_LOG = structlog.get_logger("imagegate.redis")


async def inspect(redis: Client) -> list[str]:
    """Returns the problems of a server, each with a fix; empty if it is suitable. It may refuse writes for a while.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    if problem := await _access_problem(redis):
        return [problem]
    key = f"{redis.prefix}:tenants"
    checks = (
        (partial(redis.eval, "return 1", 1, key), "run scripts for the gateway", "EVAL and EVALSHA"),
        (partial(redis.evalsha, _UNKNOWN_DIGEST, 1, key), "run scripts for the gateway", "EVALSHA"),
        (partial(redis.publish, f"{redis.prefix}:preflight", ""), "deliver messages for the gateway", "its channels"),
        (partial(redis.info, "memory"), "report its eviction policy", "INFO"),
    )
    rights = f"ACL SETUSER NAME ~{redis.prefix}:* resetchannels &{redis.prefix}:* +@all -@admin -@dangerous +info"
    problems, refusal = [], ""
    for call, what, right in checks:
        if refusal := await _refusal(redis, call()):
            problems.append(f"redis does not {what} ({refusal}): allow {right}, as with {rights}")
    if not refusal:  # INFO is allowed
        for info in await execute(redis, redis.infos("server", "memory"), list[Mapping[str, object]]):
            version, policy = str(info.get("redis_version", "")), info.get("maxmemory_policy", "noeviction")
            numbers = re.match(r"(\d+)\.(\d+)", version)
            if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
                problems.append(f"redis {version} is too old: use 6.2 or newer, or Valkey")
            if policy != "noeviction":
                problems.append(
                    f"redis would evict counters and billing records: maxmemory-policy is {policy}; "
                    "set maxmemory-policy noeviction in its configuration, and now with CONFIG SET"
                )
    return list(dict.fromkeys(problems))


async def _access_problem(redis: Client) -> str | None:
    """Returns the problem if the server rejects the first command, and so would reject all."""
    try:
        await ping(redis)
    except GatewayError as failure:
        error = failure.__cause__
        # for a cluster, redis-py exposes nothing but the text of an authentication error
        if any(words in str(error) for words in _NO_LOGIN):
            return "redis requires a password: set redis.password"
        if any(words in str(error) for words in _WRONG_LOGIN):
            return "redis rejected the credentials: check redis.username and redis.password, or those in redis.url"
        if "DB index is out of range" in str(error):
            number = redis.get_connection_kwargs()["db"]  # type: ignore[no-untyped-call]
            return f"redis has no database {number}: change the number at the end of redis.url"
        if not _is_answer(error):
            raise
    return None


async def _refusal(redis: Client, call: object) -> str:
    """Returns the error reply of a call, or that it closes the connection, as with proxies that lack the command."""
    try:
        await execute(redis, call, object)
    except GatewayError as failure:
        error = failure.__cause__
        if isinstance(error, NoScriptError):
            return ""
        if _is_answer(error):
            return str(error)
        if not isinstance(error, RedisConnectionError):
            raise
        await ping(redis)
        return "the connection is closed, as by a proxy that lacks the command"
    return ""


def _is_answer(error: BaseException | None) -> TypeGuard[ResponseError]:
    """Returns True for an error reply of a server that can serve others."""
    return isinstance(error, ResponseError) and judge(error) is Outcome.ANSWERED


async def write_refusal(redis: Client) -> str:
    """Returns why the server refuses writes, with the fix; empty if it accepts them.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    refusal = await _find_write_refusal(redis)
    return refusal.reason.replace("PREFIX", redis.prefix) if refusal else ""


async def _find_write_refusal(redis: Client) -> _WriteRefusal | None:
    try:
        await execute(redis, redis.set(f"{redis.prefix}:alive", 1, ex=_ALIVE_S), object)
    except GatewayError as failure:
        error = failure.__cause__
        if not isinstance(error, ResponseError):
            raise
        text = f"{type(error)} {error}"
        known = (refusal for refusal in _WRITE_REFUSALS if any(code in text for code in refusal.codes))
        return next(known, _WriteRefusal((), f"redis refuses writes ({error})"))
    return None


async def read_back(redis: Client, *, skips_temporary: bool = False) -> str:
    """Writes and reads. Returns the problem with its fix; empty if there is none.

    `skips_temporary` leaves out refusals that end by themselves: all processes meet them at once.
    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    if refusal := await _find_write_refusal(redis):
        return "" if skips_temporary and refusal.is_temporary else refusal.reason.replace("PREFIX", redis.prefix)
    if await execute(redis, redis.get(f"{redis.prefix}:alive"), object):
        return ""
    return "redis does not return what was written: let the address, or the proxy before it, lead to the master alone"


async def find_volatility(redis: Client) -> str:
    """Returns a warning if a crash of the server loses writes; empty if not, or if it is not reported.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    infos = await execute(redis, redis.infos("persistence"), list[Mapping[str, object]])
    if all(str(info.get("aof_enabled", 1)) == "1" for info in infos):
        return ""
    return (
        "redis has no append-only file (aof_enabled:0): a crash or a restart loses charges, tenants and keys; "
        "set appendonly yes and appendfsync everysec in its configuration, and now with CONFIG SET"
    )


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """Memory use of a server."""

    used_bytes: int
    max_bytes: int
    """`maxmemory`, or the machine's memory if unset; 0 if not reported."""


async def read_memory(redis: Client) -> RedisMemory:
    """Returns the memory use of the fullest server that accepts writes. Raises: GatewayError REDIS_UNAVAILABLE."""
    infos = await execute(redis, redis.infos("memory"), list[Mapping[str, int]])
    found = [
        RedisMemory(info.get("used_memory", 0), info.get("maxmemory") or info.get("total_system_memory", 0))
        for info in infos
    ]
    return max(found, key=lambda one: one.used_bytes / one.max_bytes if one.max_bytes else 0.0)


class PreflightMonitor:
    """Repeats the preflight checks while the gateway runs."""

    def __init__(
        self,
        redis: Client,
        find_problems: Callable[[], Awaitable[list[str]]] | None = None,
        *,
        unreachable_interval_s: float = _UNREACHABLE_INTERVAL_S,
        failed_interval_s: float = _FAILED_INTERVAL_S,
        passed_interval_s: float = _PASSED_INTERVAL_S,
    ) -> None:
        """`find_problems` returns further ones of a suitable server."""
        self._redis = redis
        self._find_problems = find_problems
        self._unreachable_interval_s = unreachable_interval_s
        self._failed_interval_s = failed_interval_s
        self._passed_interval_s = passed_interval_s
        self.problems: tuple[str, ...] = ()
        """Why the gateway is not ready. Empty until Redis has replied once."""
        self.memory: RedisMemory | None = None
        self._is_volatile = False

    async def _warn_of_volatility(self) -> None:
        volatility = await find_volatility(self._redis)
        if volatility and not self._is_volatile:
            _LOG.warning("redis_not_persistent", detail=volatility)
        self._is_volatile = bool(volatility)

    async def run(self) -> None:
        """Checks until cancelled and logs changes. The gateway may start before Redis does."""
        is_logged = False
        while True:
            known = self.problems
            try:
                problems = await inspect(self._redis) or list(
                    filter(None, [await read_back(self._redis, skips_temporary=True)])
                )
                if self._find_problems and not problems:
                    problems = await self._find_problems()
                self.problems = tuple(problems)
                if not self.problems:
                    await self._warn_of_volatility()
                self.memory = None if self.problems else await read_memory(self._redis)
            except GatewayError as error:
                if not is_logged:
                    remedy = "check redis.url; requests get 503 until then"
                    _LOG.warning("redis_unreachable", detail=error.detail, hint=remedy)
                is_logged = True
                await asyncio.sleep(self._unreachable_interval_s)
                continue
            is_logged = False
            if self.problems and self.problems != known:
                _LOG.error("redis_unsuitable", problems=self.problems)
            await asyncio.sleep(self._failed_interval_s if self.problems else self._passed_interval_s)
