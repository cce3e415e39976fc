"""The scheduler's scripts on a real Redis with a settable clock: a minute of load takes seconds."""

import json
import statistics
from collections import defaultdict
from typing import Any, Final

import redis

from gateway.domain.health import lua_tables
from gateway.scheduler.scripts import PARTS, record
from tests.support.clocked import Clock, clocked_script

UPSTREAM: Final = "bench"
_CHANNEL: Final = "ig3:pool:bench"
_LEASE_US: Final = 60_000_000
_ALIVE_US: Final = 6_000_000
_READINGS: Final = 200
_FIXED: Final = """
local kept, sum = {}, 0
for i = 1, 1000000 do
  kept[i % 1000] = i
  sum = sum + kept[i % 1000]
end
return sum
"""
"""A script of the same work on every machine: the others' cost as a multiple of it compares machines."""
_FIXED_RUNS: Final = 5
_KEYS: Final = [record(UPSTREAM, name) for name in ("meta", "members", "day:20260725")]
_ACCOUNT: Final = {"requests_per_minute": 10, "images_per_minute": 60, "max_concurrency": 10, "weight": 1}
_TERMS: Final = {
    "margin_us": 1_000_000,
    "max_queue_length": 10_000,
    "breaker_failures": 5,
    "breaker_open_us": 10_000_000,
    "retry_budget_percent": 20,
    "retries_min": 3,
    "paced": 50,
}


class ClockedPool:
    """One upstream with one process; with `watch`, the CPU time of each script on Redis' main thread."""

    def __init__(self, port: int, accounts: int) -> None:
        self._redis = redis.Redis(port=port, decode_responses=True)
        self._redis.flushall()
        self._scripts: dict[str, Any] = {}
        self._base_us: float | None = None
        self.clock = Clock(self._redis)
        self.costs_us: defaultdict[str, list[float]] = defaultdict(list)
        """By script, once watched."""
        described = {
            f"a{number:04}": {**_ACCOUNT, "keys": [{"name": "k", "fingerprint": f"f{number}"}]}
            for number in range(accounts)
        }
        said = {"process": "p", "digest": "d", "until_us": 10**13, "terms": _TERMS, "accounts": described}
        self._run("members", "declare", json.dumps(said), "")

    def close(self) -> None:
        self._redis.close()

    def watch(self) -> None:
        """Starts the measurement; the cost of INFO itself is subtracted."""
        self._base_us = statistics.median(-(self._cpu_us() - self._cpu_us()) for _ in range(_READINGS))

    def fixed_us(self) -> float:
        """Measures the CPU time of a fixed script, which touches a small table a million times."""

        def one() -> float:
            before_us = self._cpu_us()
            self._redis.eval(_FIXED, 0)
            return self._cpu_us() - before_us

        return statistics.median(one() for _ in range(_FIXED_RUNS))

    def lease(self, lease_id: str, tenant: str, images: int, model: str, patience_s: float) -> dict[str, Any]:
        patience_us = round(patience_s * 1e6)
        asked = [lease_id, _CHANNEL, tenant, 1, images, model, patience_us, "", 0, _LEASE_US, _ALIVE_US, "i"]
        return self._run("lease", *asked)

    def turn(self, waiting: list[str]) -> dict[str, Any]:
        return self._run("heartbeat", _CHANNEL, _ALIVE_US, _LEASE_US, 0, *waiting)

    def granted(self) -> list[str]:
        """Returns the IDs that the process would be notified of."""
        found: Any = self._redis.hkeys(record(UPSTREAM, "grants"))
        return [*found]

    def claim(self, lease_id: str) -> dict[str, Any]:
        return self._run("claim", lease_id, _LEASE_US)

    def leave(self, lease_id: str) -> None:
        self._run("cancel", lease_id)

    def release(self, lease_id: str, account: str, model: str, **said: object) -> None:
        key = {"account": account, "key": "k", "fingerprint": f"f{int(account[1:])}", "model": model}
        self._run("release", lease_id, json.dumps(key | said))

    def _run(self, act: str, *args: object) -> dict[str, Any]:
        if act not in self._scripts:
            self._scripts[act] = clocked_script(self._redis, f"scheduler/{act}", PARTS[act], lua_tables())
        before_us = self._cpu_us() if self._base_us is not None else 0.0
        found: dict[str, Any] = json.loads(self._scripts[act](keys=_KEYS, args=list(args)))
        if self._base_us is not None:
            self.costs_us[act].append(self._cpu_us() - before_us - self._base_us)
        return found

    def _cpu_us(self) -> float:
        used: Any = self._redis.info("cpu")
        return 1e6 * float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])
