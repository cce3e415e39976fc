"""The scripts of a pool, one call each, on a clock of the test's own."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, Final

import redis

from gateway.domain.accounts import AccountLimits
from gateway.domain.health import lua_tables
from gateway.scheduler.scripts import PARTS, _keys
from tests.support.clocked import Clock, clocked_script

TERMS: Final = {
    "margin_us": 1_000_000,
    "max_queue_length": 100_000,
    "breaker_failures": 5,
    "breaker_open_us": 10_000_000,
    "retry_budget_percent": 20,
    "retries_min": 3,
    "paced": 0,
}
WINDOW_S: Final = 61.0
"""For which a call counts: a minute, and the margin of TERMS."""
_HOLD_US: Final = 15_000_000
_ALIVE_US: Final = 6_000_000
_Found = dict[str, Any]
Mutant = tuple[str, str]
"""A part of the scripts' text, and what stands in its place."""


def described(limits: AccountLimits, *keys: str) -> _Found:
    """An account as a configuration declares it."""
    return asdict(limits) | {"keys": [{"name": key, "fingerprint": f"fp-{key}"} for key in keys]}


def rest(error_code: str, scope: str, state: str, seconds: float, **changes: object) -> _Found:
    """What a failed call reports: what its fault puts to rest, and how."""
    said = {
        "error_code": error_code,
        "scope": scope,
        "state": state,
        "seconds": seconds,
        "seconds_max": 0,
        "breaker": "well",
    }
    return said | changes


DENIED: Final = rest("key_model_denied", "model", "quarantined", 90_000)
SPENT: Final = rest("insufficient_balance", "account", "quarantined", 900)


class ClockedPool:
    """One upstream's pool; each account has the key "NAME-1", unless said otherwise."""

    def __init__(self, client: "redis.Redis", mutant: Mutant = ("", "")) -> None:
        self.client = client
        self.clock = Clock(client)
        self.leases: dict[str, _Found] = {}
        """What was leased and not given back, by id."""
        self._keys = _keys("sim", date(1970, 1, 2))
        self._mutant = mutant
        self._scripts: dict[str, Any] = {}

    def run(self, act: str, *args: Any) -> _Found:
        if act not in self._scripts:
            text = str(clocked_script(self.client, f"scheduler/{act}", PARTS[act], lua_tables()).script)
            self._scripts[act] = self.client.register_script(text.replace(*self._mutant) if self._mutant[0] else text)
        found = json.loads(self._scripts[act](keys=self._keys, args=list(args)))
        assert isinstance(found, dict)
        return found

    def declare(self, accounts: dict[str, AccountLimits], **terms: float) -> None:
        self.declare_as("p1", "d", {name: described(one, f"{name}-1") for name, one in accounts.items()}, **terms)

    def declare_as(self, process: str, digest: str, accounts: dict[str, _Found], **terms: float) -> None:
        said = {"process": process, "digest": digest, "until_us": _HOLD_US}
        self.run("members", "declare", json.dumps(said | {"terms": TERMS | terms, "accounts": accounts}), "")

    def renew(self, process: str, digest: str) -> str:
        said = {"process": process, "digest": digest, "until_us": _HOLD_US}
        return str(self.run("members", "renew", json.dumps(said), "")["decision"])

    def hold(self, member: str, event: str) -> None:
        self.run("members", "hold", member, json.dumps({"event": event, "since_us": 0, "by": "ann"}))

    def lease(
        self,
        lease_id: str,
        tenant: str = "t",
        images: int = 1,
        *,
        patience_s: float = 0.0,
        model: str = "m",
        process: str = "p1",
        weight: int = 1,
        avoided: Sequence[str] = (),
        lease_s: float = 60.0,
        priority: str = "i",
    ) -> _Found:
        args = [lease_id, process, tenant, weight, images, model, round(patience_s * 1e6), "", 0]
        found = self.run("lease", *args, round(lease_s * 1e6), _ALIVE_US, priority, *avoided)
        return self._keep(lease_id, found)

    def take(self, lease_id: str, tenant: str = "t", images: int = 1, **changes: Any) -> str:
        """A lease that is given at once; the name of its account."""
        found = self.lease(lease_id, tenant, images, **changes)
        assert "leased" == found["decision"], found
        return str(found["account"])

    def wait(self, lease_id: str, tenant: str = "t", images: int = 1, **changes: Any) -> None:
        """A request that has to wait."""
        found = self.lease(lease_id, tenant, images, **{"patience_s": 120.0} | changes)
        assert "wait" == found["decision"], found

    def claim(self, lease_id: str, lease_s: float = 60.0) -> _Found:
        return self._keep(lease_id, self.run("claim", lease_id, round(lease_s * 1e6)))

    def leave(self, *ids: str) -> None:
        self.run("cancel", *ids)
        for lease_id in ids:
            self.leases.pop(lease_id, None)

    def turn(
        self, *waiting: str, leases: Sequence[str] = (), process: str = "p1", lease_s: float = 60.0
    ) -> dict[str, Any]:
        """A heartbeat for what waits, and what is held."""
        return self.run("heartbeat", process, _ALIVE_US, round(lease_s * 1e6), len(leases), *leases, *waiting)

    def given(self, *waiting: str) -> list[str]:
        """What these are given now: by heartbeats until one has no more to do."""
        found: list[str] = []
        for _ in range(100):
            answer = self.turn(*waiting)
            found = answer.get("assigned", [])
            if answer["next_us"] != 0:
                return found
        raise AssertionError("a heartbeat is never done")

    def release(self, lease_id: str, **said: Any) -> None:
        """With a success, unless said otherwise."""
        self.release_again(self.leases.pop(lease_id), lease_id, **said)

    def release_again(self, lease: _Found, lease_id: str, **said: Any) -> None:
        """As `release` did; nothing is remembered of it."""
        of = {"account": lease["account"], "key": lease["key"], "fingerprint": lease["fingerprint"], "model": "m"}
        self.run("release", lease_id, json.dumps(of | (said or {"is_success": True, "breaker": "well"})))

    def spend(self, count: int, name: str = "spent", images: int = 1) -> None:
        """So many calls are sent now and end at once."""
        for number in range(count):
            self.take(f"{name}{number}", "spender", images)
            self.release(f"{name}{number}")
            self.clock.advance(0.001)

    def look(self) -> _Found:
        found = self.run("snapshot", 0)
        pool = dict(found["pool"])
        while found["cursor"] != "0":
            found = self.run("snapshot", found["cursor"])
            pool["accounts"] = pool.get("accounts", []) + found["pool"].get("accounts", [])
        return pool

    def account(self, name: str = "a") -> _Found:
        return next(dict(one) for one in self.look()["accounts"] if one["name"] == name)

    def _keep(self, lease_id: str, found: _Found) -> _Found:
        if found["decision"] == "leased":
            self.leases[lease_id] = found
        return found
