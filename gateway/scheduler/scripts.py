r"""The scheduler's scripts (scheduler/lua) and their replies.

All keys of an upstream, `ig3:{pool:UPSTREAM}:NAME`:

| name | type | TTL | what |
|---|---|---|---|
| declared | hash | 40 days idle | digest -> JSON: accounts, keys and settings of one configuration |
| digests | sorted set | 40 days idle | digests by first registration |
| holders | sorted set | 40 days idle | "DIGEST\|PROCESS" by expiry: the configuration of each process |
| added | hash | none | ACCOUNT/KEY -> JSON: sealed secret and limits of keys added at run time |
| held | hash | none | ACCOUNT or ACCOUNT/KEY -> JSON: state set by an operator: disabled, draining |
| members | hash | 40 days idle | ACCOUNT -> JSON: configured and added accounts |
| health | hash | 40 days idle | cooldowns: reason and end; see lua/health.lua |
| loads | hash | 40 days idle | ACCOUNT -> msgpack: calls of the last minute and in flight |
| groups, ready:GROUP, full:GROUP, resting:GROUP, out:GROUP | | 40 days idle | the index: see lua/serving.lua |
| timers | sorted set | 40 days idle | accounts by the time of their next change of state |
| leases | sorted set | 40 days idle | lease IDs by expiry |
| leased | hash | 40 days idle | lease ID -> msgpack: account, key, images, time |
| tasks | hash | 40 days idle | lease ID -> JSON: a task at the provider, see tasks.py |
| tasks_due | sorted set | 40 days idle | lease IDs by when another process may take the task over |
| lapsed | sorted set | 40 days idle | IDs of leases that expired within a day |
| queue, waiters, classes, class:CLASS, queued | | 40 days idle | the queue: see lua/queue.lua |
| active, idle | sorted sets | 40 days idle | flows by their pass: waiting and not waiting |
| waits, weights | hashes | 40 days idle | flow -> waiting requests, weight |
| used, recent, flows | sorted sets, hash | 40 days idle | recent use by flow: see lua/shares.lua |
| waiting:PROCESS | set | 40 days idle | IDs of a process's waiting requests |
| processes | sorted set | 40 days idle | channels of waiting processes by expiry |
| grants | hash | 40 days idle | lease ID -> channel: unclaimed leases |
| watched:TENANT:REQUEST | string | its wait | ID of the lease that the request waits for |
| accused, blamed, blamed:MODEL | hash, sets | 40 days idle | errors met by few tenants: see lua/health.lua |
| served | sorted set | 40 days idle | tenants by last success; at most 1,000: see lua/release.lua |
| ailing | hash | 40 days idle | tenant -> consecutive failures; at most 1,000: see lua/health.lua |
| history:MEMBER | list | 40 days idle | JSON of the latest 50 states of a key, an account or "*" |
| meta | hash | 40 days idle | settings, virtual time, consecutive failures, calls of the last minute, outages |
| events | stream | 40 days idle | events of the upstream: see events/outbox.py |
| audit | stream | `[audit]` | one entry per admin change |
| day:YYYYMMDD | hash | 40 days idle | "ACCOUNT\|images" and "ACCOUNT\|usd_micros" delivered, events of the day |
"""

from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec
import structlog

from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.errors import ErrorCode
from gateway.domain.health import lua_tables
from gateway.observability.metrics import Metrics
from gateway.redis import PREFIX, Client, Value, load_script
from gateway.scheduler.status import PoolStatus

_LOG = structlog.get_logger("imagegate.pool")
_NAMES: Final = ("meta", "members", "loads", "health", "leases", "queue")
"""Some of them: the scripts name the others themselves, in the same slot."""
_INDEX: Final = ("tenants/streams", "scheduler/prelude", "scheduler/health", "scheduler/accounts", "scheduler/serving")
_LEASES: Final = (*_INDEX, "scheduler/shares", "scheduler/leases")
_QUEUE: Final = (*_LEASES, "scheduler/queue", "scheduler/dispatch")
PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    dict.fromkeys(("cancel", "heartbeat", "release", "members"), _QUEUE)
    | dict.fromkeys(("lease", "place"), (*_QUEUE, "scheduler/forecast"))
    | {"claim": _LEASES, "snapshot": _LEASES, "has_capacity": _INDEX, "task": ("scheduler/prelude",)}
)
"""By script, the files that stand before it, in this order: the ones that it uses, as Redis runs them at every call."""
_CACHED_KEYS_MAX: Final = 64
"""One entry per upstream and day."""
_UPSTREAM: Final = "*"
"""Subject of state changes of the whole upstream."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A script's reply; lua/*.lua state which fields belong to which decision."""

    decision: str
    events: tuple[tuple[str, str, str], ...] = ()
    """(subject, state, error code) of each state change."""
    account: str = ""
    key: str = ""
    fingerprint: str = ""
    requested_us: str = ""
    wait_us: float = 0
    place: int = 0
    next_us: float = -1
    is_keeper: bool = False
    assigned: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    pool: PoolStatus | None = None
    cursor: str = "0"
    tasks: tuple[str, ...] = ()


def record(upstream: str, name: str, prefix: str = PREFIX) -> str:
    """Returns the name of a Redis key of an upstream."""
    return f"{prefix}:{{pool:{upstream}}}:{name}"


@lru_cache(maxsize=_CACHED_KEYS_MAX)
def _keys(upstream: str, today: date, prefix: str = PREFIX) -> list[str]:
    """Returns the keys passed to every script."""
    return [record(upstream, name, prefix) for name in (*_NAMES, f"day:{today:%Y%m%d}")]


class Scripts:
    """Runs the scripts, and logs and counts the state changes that they report."""

    def __init__(
        self, redis: Client, metrics: Metrics, clock: Callable[[], float], calendar: Calendar = UTC_CALENDAR
    ) -> None:
        self._scripts = {
            act: load_script(redis, f"scheduler/{act}", parts, lua_tables()) for act, parts in PARTS.items()
        }
        self._prefix = redis.prefix
        self._metrics = metrics
        self._clock = clock
        self._calendar = calendar

    async def run(self, act: str, upstream: str, args: list[Value]) -> Reply:
        """Runs a script. Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip."""
        text = await self._scripts[act](_keys(upstream, self._calendar.day(self._clock()), self._prefix), args)
        reply = msgspec.json.decode(str(text), type=Reply, strict=False)
        for event in reply.events:
            self._log_state_change(upstream, *event)
        return reply

    def _log_state_change(self, upstream: str, subject: str, state: str, error_code: str) -> None:
        member, _, model = subject.partition("|")
        account, _, key = ("", "", "") if member == _UPSTREAM else member.partition("/")
        self._metrics.pool_state_changes.labels(upstream, account, key, state, error_code or "none").inc()
        named = {"account": account, "key": key, "model": model}
        labels = {name: value for name, value in named.items() if value}
        if subject == _UPSTREAM and error_code == ErrorCode.KEY_INVALID.value and state == "quarantined":
            _LOG.error(
                "all_provider_keys_rejected",
                upstream=upstream,
                detail="the provider rejects every key",
                hint="check that base_url is of the keys' region, and that the secrets are correct",
            )
        _LOG.warning("pool_state_changed", upstream=upstream, **labels, state=state, error_code=error_code or None)
