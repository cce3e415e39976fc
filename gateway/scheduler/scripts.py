r"""The scripts of the pool (lua/pool), and what they answer.

Every key of an upstream, `ig3:{pool:UPSTREAM}:NAME`:

| name | type | TTL | what |
|---|---|---|---|
| declared | hash | 40 days idle | digest -> JSON: accounts, keys and terms of one configuration |
| digests | sorted set | 40 days idle | digests, by the moment of their first declaration |
| holders | sorted set | 40 days idle | "DIGEST\|PROCESS": which process has which configuration, by expiry |
| added | hash | none | ACCOUNT/KEY -> JSON: sealed secret, limits, of keys added at run time |
| held | hash | none | ACCOUNT or ACCOUNT/KEY -> JSON: a person's word: disabled, draining |
| roster | hash | 40 days idle | ACCOUNT -> JSON: declared and added, as the scheduler uses it |
| health | hash | 40 days idle | see lua/pool/health.lua: what rests, why, until when |
| loads | hash | 40 days idle | ACCOUNT -> msgpack: what was sent in the last minute, what is in flight |
| groups, ready:GROUP, full:GROUP, resting:GROUP, out:GROUP | | 40 days idle | the index: see lua/pool/serving.lua |
| turns | sorted set | 40 days idle | accounts, by the moment at which something of them changes by itself |
| leases | sorted set | 40 days idle | ids of leases, by expiry |
| leased | hash | 40 days idle | id -> msgpack: account, key, images, moment |
| lapsed | sorted set | 40 days idle | ids of leases that expired within a day |
| line, places, classids, class, classes, class:NUMBER, queued | | 40 days idle | the queue: see lua/pool/line.lua |
| active, idle | sorted sets | 40 days idle | flows, by their pass: those that wait, and those that do not |
| waits, weights | hashes | 40 days idle | flow -> requests that wait, weight |
| used, recent, flows | sorted sets, hash | 40 days idle | what flows used lately: see lua/pool/shares.lua |
| waiting:PROCESS | set | 40 days idle | ids of what waits for a process |
| processes | sorted set | 40 days idle | channels of processes that wait for something, by expiry |
| grants | hash | 40 days idle | id -> channel: leases that their processes have not taken yet |
| accused, blamed | hash, set | 40 days idle | faults that one tenant's calls met: see lua/pool/health.lua |
| served | sorted set | 40 days idle | tenants that were served, by moment; at most 1,000: see lua/pool/release.lua |
| ailing | hash | 40 days idle | tenant -> failures in a row; at most 1,000: see lua/pool/health.lua |
| meta | hash | 40 days idle | terms, virtual time, failures in a row, calls of the last minute |
| audit | stream | `[audit]` | one entry a person's change |
| day:YYYYMMDD | hash | 40 days idle | "ACCOUNT\|images" and "ACCOUNT\|usd_micros" delivered |
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import ErrorCode
from gateway.domain.health import lua_tables
from gateway.observability.metrics import Metrics
from gateway.redis import PREFIX, Client, Value, load_script

_LOG = structlog.get_logger("imagegate.pool")
_NAMES: Final = ("meta", "roster", "loads", "health", "leases", "line")
"""Some of them: the scripts name the others themselves, in the same slot."""
SHARED: Final = (
    "scheduler/prelude",
    "scheduler/health",
    "scheduler/time",
    "scheduler/accounts",
    "scheduler/keys",
    "scheduler/serving",
    "scheduler/shares",
    "scheduler/leases",
    "scheduler/queue",
)
"""What stands before each script, in this order."""
ACTS: Final = ("lease", "claim", "cancel", "heartbeat", "release", "members", "snapshot", "has_capacity")
_DAY_S: Final = 86_400
_CACHED_KEYS_MAX: Final = 64
"""Upstreams and days."""
UPSTREAM: Final = "*"
"""The subject of what concerns an upstream as a whole."""


class LeaseReply(msgspec.Struct, frozen=True):
    """What a script answers; lua/pool/*.lua say which fields come with which verdict."""

    decision: str
    version: int = 0
    account: str = ""
    key: str = ""
    fingerprint: str = ""
    at_us: str = ""
    asked_us: str = ""
    wait_us: float = 0
    next_us: float = -1
    is_keeper: bool = False
    given: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    down: tuple[str, ...] = ()


class _StateChanges(msgspec.Struct, frozen=True):
    """What every script says beside."""

    events: tuple[tuple[str, str, str], ...] = ()
    """What changed its state meanwhile: subject, state, fault."""


def record(upstream: str, name: str) -> str:
    """The name of one of an upstream's keys in Redis."""
    return f"{PREFIX}:{{pool:{upstream}}}:{name}"


@lru_cache(maxsize=_CACHED_KEYS_MAX)
def _keys(upstream: str, day: int) -> list[str]:
    """What every script is given; `day` since the epoch."""
    today = time.strftime("%Y%m%d", time.gmtime(day * _DAY_S))
    return [record(upstream, name) for name in (*_NAMES, f"day:{today}")]


class Scripts:
    """Runs them, and tells of every change of state that they report."""

    def __init__(self, redis: Client, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._scripts = {act: load_script(redis, f"scheduler/{act}", SHARED, lua_tables()) for act in ACTS}
        self._metrics = metrics
        self._clock = clock

    async def run(self, act: str, upstream: str, args: list[Value]) -> LeaseReply:
        """Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip."""
        return msgspec.json.decode(await self.raw(act, upstream, args), type=LeaseReply, strict=False)

    async def raw(self, act: str, upstream: str, args: list[Value]) -> str:
        """The answer as JSON. Raises: GatewayError REDIS_UNAVAILABLE."""
        text = str(await self._scripts[act](_keys(upstream, int(self._clock() // _DAY_S)), args))
        if '"events"' in text:
            for event in msgspec.json.decode(text, type=_StateChanges).events:
                self._log_state_change(upstream, *event)
        return text

    def _log_state_change(self, upstream: str, subject: str, state: str, error_code: str) -> None:
        member, _, model = subject.partition("|")
        account, _, key = ("", "", "") if member == UPSTREAM else member.partition("/")
        self._metrics.pool_state_changes.labels(upstream, account, key, state, error_code or "none").inc()
        named = {"account": account, "key": key, "model": model}
        labels = {name: value for name, value in named.items() if value}
        if subject == UPSTREAM and error_code == ErrorCode.KEY_INVALID.value and state == "quarantined":
            _LOG.error(
                "all_provider_keys_rejected",
                upstream=upstream,
                detail="every key is refused",
                remedy="is base_url of the keys' region? are the secrets the right ones?",
            )
        _LOG.warning("pool_state_changed", upstream=upstream, **labels, state=state, error_code=error_code or None)
