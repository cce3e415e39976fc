"""Whether a Redis that answers can be trusted with limits and bills: scripts allowed, nothing evicted, new enough.

Without scripts no limit is exact, and a server that throws keys away when its memory is full throws bills away.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard

import structlog
from redis.exceptions import NoScriptError, ResponseError

from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Client, execute, ping
from gateway.redis.call_guard import judge
from gateway.redis.circuit_breaker import Outcome

_OLDEST: Final = (6, 2)
_RIGHTS: Final = f"ACL SETUSER NAME ~{PREFIX}:* resetchannels &{PREFIX}:* +@all -@admin -@dangerous +info"
"""All that the gateway needs; on a cluster `+cluster` besides."""
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
"""One that was good may come back from a restart with another configuration."""
_LOG = structlog.get_logger("imagegate.redis")


async def inspect(redis: Client) -> list[str]:
    """What is wrong with it, each with the remedy; nothing for a Redis that can be used.

    Raises: GatewayError REDIS_UNAVAILABLE for one that does not answer.
    """
    if problem := await _access_problem(redis):
        return [problem]
    key = f"{PREFIX}:tenants"
    found = [
        *await _refused(redis, redis.eval("return 1", 1, key), "runs no scripts", "allow EVAL and EVALSHA"),
        *await _refused(redis, redis.evalsha(_UNKNOWN_DIGEST, 1, key), "runs no scripts", "allow EVALSHA"),
        *await _refused(redis, redis.publish(f"{PREFIX}:preflight", ""), "passes no messages on", "allow its channels"),
        *await _unfit(redis),
    ]
    return list(dict.fromkeys(found))


async def _access_problem(redis: Client) -> str | None:
    """Why it lets nobody in who comes like this: it refuses the first command, so it would refuse all."""
    try:
        await ping(redis)
    except GatewayError as failure:
        error = failure.__cause__
        problem = _login_problem(str(error))
        if "DB index is out of range" in str(error):
            number = redis.get_connection_kwargs()["db"]  # type: ignore[no-untyped-call]
            problem = f"there is no database {number}: change the number at the end of redis.url"
        if problem is None and not _is_answer(error):
            raise
        return problem
    return None


def _login_problem(message: str) -> str | None:
    """By the words: of a cluster, redis-py passes on nothing else."""
    if any(words in message for words in _NO_LOGIN):
        return "redis asks for a password: set redis.password"
    if any(words in message for words in _WRONG_LOGIN):
        return "redis refuses redis.username or redis.password, or the login in redis.url"
    return None


async def _refused(redis: Client, call: object, what: str, remedy: str) -> list[str]:
    error = await _refusal(redis, call)
    return [f"redis {what} for the gateway ({error}): {remedy}, as with {_RIGHTS}"] if error else []


async def _refusal(redis: Client, call: object) -> ResponseError | None:
    """The error that it answers instead of doing what it is asked."""
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
    """Whether the server message it, and can serve others."""
    return isinstance(error, ResponseError) and judge(error) is Outcome.ANSWERED


async def _unfit(redis: Client) -> list[str]:
    if error := await _refusal(redis, redis.info("memory")):
        return [f"redis does not tell its eviction policy ({error}): allow INFO, as with {_RIGHTS}"]
    infos = await execute(redis, redis.infos("server", "memory"), list[Mapping[str, object]])
    return [problem for info in infos for problem in (*_version_problem(info), *_policy_problem(info))]


def _version_problem(info: Mapping[str, object]) -> list[str]:
    version = str(info.get("redis_version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= _OLDEST:
        return []
    return [f"redis {version} is too old: use 6.2 or newer, or Valkey"]


def _policy_problem(info: Mapping[str, object]) -> list[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    problem = f"redis throws counters and bills away when its memory is full (maxmemory-policy {policy})"
    remedy = "set maxmemory-policy noeviction in its configuration, and with CONFIG SET at once"
    return [] if policy == "noeviction" else [f"{problem}: {remedy}"]


async def write_refusal(redis: Client) -> str:
    """Why it takes no writes although it answers, as with full memory or without its replicas; empty where it does.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    error = await _refusal(redis, redis.set(f"{PREFIX}:alive", 1, ex=_ALIVE_S))
    return f"redis takes no writes ({error})" if error else ""


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """How full the memory of a server is."""

    used_bytes: int
    max_bytes: int
    """`maxmemory`, or all memory of its machine without one; 0 if it does not report that."""


async def read_memory(redis: Client) -> RedisMemory:
    """Of the fullest server that takes writes. Raises: GatewayError REDIS_UNAVAILABLE."""
    infos = await execute(redis, redis.infos("memory"), list[Mapping[str, int]])
    found = [
        RedisMemory(info.get("used_memory", 0), info.get("maxmemory") or info.get("total_system_memory", 0))
        for info in infos
    ]
    return max(found, key=lambda one: one.used_bytes / one.max_bytes if one.max_bytes else 0.0)


class PreflightMonitor:
    """The verdict on the Redis in use, sought again and again."""

    def __init__(
        self,
        redis: Client,
        *,
        pause_away_s: float = _UNREACHABLE_INTERVAL_S,
        pause_unfit_s: float = _FAILED_INTERVAL_S,
        pause_fit_s: float = _PASSED_INTERVAL_S,
    ) -> None:
        self._redis = redis
        self._pause_away_s = pause_away_s
        self._pause_unfit_s = pause_unfit_s
        self._pause_fit_s = pause_fit_s
        self.problems: tuple[str, ...] = ()
        """Why the gateway is not ready; nothing is known of a Redis that has not answered yet."""
        self.memory: RedisMemory | None = None

    async def run(self) -> None:
        """Serving may begin before Redis does; whoever reads the log is told."""
        is_logged = False
        while True:
            known = self.problems
            try:
                self.problems = tuple(await inspect(self._redis))
                self.memory = None if self.problems else await read_memory(self._redis)
            except GatewayError as error:
                if not is_logged:
                    remedy = "check redis.url; requests are answered 503"
                    _LOG.warning("redis_unreachable", detail=error.detail, remedy=remedy)
                is_logged = True
                await asyncio.sleep(self._pause_away_s)
                continue
            is_logged = False
            if self.problems and self.problems != known:
                _LOG.error("redis_unsuitable", problems=self.problems)
            await asyncio.sleep(self._pause_unfit_s if self.problems else self._pause_fit_s)
