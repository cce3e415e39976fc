"""Preflight checks of a Redis server: scripts allowed, no eviction, supported version.

Limits are exact only with scripts, and a server that evicts keys loses billing data.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeGuard

import structlog
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
_UNREACHABLE_INTERVAL_S: Final = 1.0
_ALIVE_S: Final = 60
_FAILED_INTERVAL_S: Final = 5.0
_PASSED_INTERVAL_S: Final = 30.0
"""A server that passed may restart with another configuration."""
_LOG = structlog.get_logger("imagegate.redis")


async def inspect(redis: Client) -> list[str]:
    """Returns the problems of a server, each with a fix; empty if it is suitable.

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
    problems, error = [], None
    for call, what, right in checks:
        if error := await _refusal(redis, call()):
            problems.append(f"redis does not {what} ({error}): allow {right}, as with {rights}")
    if error is None:  # INFO is allowed
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


async def _refusal(redis: Client, call: object) -> ResponseError | None:
    """Returns the error reply of a call, or None."""
    try:
        await execute(redis, call, object)
    except GatewayError as failure:
        error = failure.__cause__
        if isinstance(error, NoScriptError):
            return None
        if _is_answer(error):
            return error
        raise
    return None


def _is_answer(error: BaseException | None) -> TypeGuard[ResponseError]:
    """Returns True for an error reply of a server that can serve others."""
    return isinstance(error, ResponseError) and judge(error) is Outcome.ANSWERED


async def write_refusal(redis: Client) -> str:
    """Returns why the server refuses writes, e.g. full memory or missing replicas; empty if it accepts them.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    error = await _refusal(redis, redis.set(f"{redis.prefix}:alive", 1, ex=_ALIVE_S))
    return f"redis refuses writes ({error})" if error else ""


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

    async def run(self) -> None:
        """Checks until cancelled and logs changes. The gateway may start before Redis does."""
        is_logged = False
        while True:
            known = self.problems
            try:
                problems = await inspect(self._redis)
                if self._find_problems and not problems:
                    problems = await self._find_problems()
                self.problems = tuple(problems)
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
