"""One pool's scripts on a real server, on the clock of a test, and what Redis holds after each of them."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import msgspec
import redis

from gateway.domain.health import lua_tables
from gateway.scheduler.scripts import PARTS, _keys, record
from tests.scheduler.clocked_pool import Mutant
from tests.support.clocked import Clock, clocked_script

UPSTREAM: Final = "sim"


@dataclass(frozen=True)
class Step:
    """One call of a script, and what is to be found after it."""

    answer: dict[str, Any]
    grants: dict[str, str]
    """Id -> channel of the process."""
    passes: dict[str, float]
    """Of the flows that wait."""


@dataclass(frozen=True)
class State:
    """What says which account can serve: as it is kept, not as the scripts understand it."""

    health: dict[str, Any]
    loads: dict[str, Any]
    leased: dict[str, Any]
    held: dict[str, Any]
    used: dict[str, float]
    flows: dict[str, Any]
    interactive_at_us: float
    """When an interactive call was last requested."""


class ClockedPool:
    """The scripts; with a mutant, wrong ones."""

    def __init__(self, client: "redis.Redis", mutant: Mutant | None = None) -> None:
        self._client = client
        self._keys = _keys(UPSTREAM, date(1970, 1, 2))
        texts = {
            act: str(clocked_script(client, f"scheduler/{act}", parts, lua_tables()).script)
            for act, parts in PARTS.items()
        }
        if mutant:
            before, after = mutant
            assert 1 == max(text.count(before) for text in texts.values()), mutant
            texts = {act: text.replace(before, after) for act, text in texts.items()}
        self._shas = {act: client.script_load(text) for act, text in texts.items()}

    def run(self, act: str, now_s: float, *args: str | float) -> Step:
        """One round trip. Raises: redis.ResponseError."""
        with self._client.pipeline(transaction=False) as pipeline:
            Clock(pipeline, now_s)
            pipeline.evalsha(str(self._shas[act]), len(self._keys), *self._keys, *args)
            pipeline.hgetall(record(UPSTREAM, "grants"))
            pipeline.zrange(record(UPSTREAM, "active"), 0, -1, withscores=True)
            _, text, grants, passes = pipeline.execute()
        answer = json.loads(text)
        assert all(math.isfinite(value) for value in answer.values() if isinstance(value, int | float)), answer
        return Step(answer, _named(grants), {flow.decode(): float(value) for flow, value in passes})

    def leases(self, ids: list[str]) -> list[dict[str, Any]]:
        kept: Any = self._client.hmget(record(UPSTREAM, "leased"), ids)
        return [_unpack(one) for one in kept]

    def is_waiting(self, lease_id: str) -> bool:
        return bool(self._client.hexists(record(UPSTREAM, "waiters"), lease_id))

    def cooldown(self, field: str) -> dict[str, Any] | None:
        kept: Any = self._client.hget(record(UPSTREAM, "health"), field)
        return _unpack(kept) if kept else None

    def state(self) -> State:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in ("health", "loads", "leased", "held", "flows"):
                pipeline.hgetall(record(UPSTREAM, name))
            pipeline.zrange(record(UPSTREAM, "used"), 0, -1, withscores=True)
            pipeline.hget(record(UPSTREAM, "meta"), "interactive_at")
            health, loads, leased, held, flows, used, interactive_at = pipeline.execute()
        passes = {flow.decode(): float(value) for flow, value in used}
        kept = (_unpacked(health), _unpacked(loads), _unpacked(leased), _named(held), passes, _unpacked(flows))
        return State(*kept, float(interactive_at or 0))

    def left_over(self, names: Iterable[str]) -> list[str]:
        """Which keys of these names, or beginnings of names, there are."""
        base = record(UPSTREAM, "")
        found: Any = self._client.keys(base.replace("{", "?").replace("}", "?") + "*")
        kept = sorted(name.decode().removeprefix(base) for name in found)
        return [name for name in kept if name in names or f"{name.partition(':')[0]}:" in names]

    def meta(self, *names: str) -> list[float]:
        kept: Any = self._client.hmget(record(UPSTREAM, "meta"), names)
        return [float(value or 0) for value in kept]


def _unpack(kept: bytes) -> Any:
    return msgspec.msgpack.decode(kept)


def _unpacked(kept: dict[bytes, bytes]) -> dict[str, Any]:
    return {name.decode(): _unpack(value) for name, value in kept.items()}


def _named(kept: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in kept.items()}
