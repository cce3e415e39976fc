"""The scripts of admission, one call each, on a clock of the test's own."""

import json
from typing import Any, Final

import redis

from gateway.domain.attribution import Attribution
from gateway.metering.ledger_keys import write_attribution
from gateway.metering.reservations import PARTS
from tests.support.clocked import Clock, clocked_script

BASE: Final = "ig3:{acme}:"
NOBODY: Final = Attribution()


class Desk:
    """The scripts of admission for one tenant and one key, on a clock that the test sets."""

    def __init__(self, client: "redis.Redis", now_s: float, **limits: int) -> None:
        self.client = client
        self.clock = Clock(client, now_s)
        self._scripts = {
            name: clocked_script(client, f"metering/{name}", PARTS.get(name, ()))
            for name in ("admit", "mark_sent", "renew", "settle")
        }
        client.hset(f"{BASE}tenant", mapping={"created_at": 1, "limits": json.dumps(limits)})
        client.hset(f"{BASE}keys", "k1", json.dumps({"limits": {}}))

    def admit(
        self,
        reservation: str,
        images: int = 1,
        identity: dict[str, Any] | None = None,
        attribution: Attribution = NOBODY,
        cost: int = 3500,
    ) -> dict[str, Any]:
        args = [reservation, "k1", "rq", "m", images, f"0:{cost}", 60_000, "0", "1000", "1000", ""]
        args += ["" if identity is None else json.dumps(identity), "null", write_attribution(attribution)]
        found = self._run(
            "admit", ["tenant", "keys", self._name(reservation), *self._open(), "rate", "key:k1:rate"], args
        )
        assert isinstance(found, dict)
        return found

    def send(self, reservation: str, images: int = 1, account: str = "u/a") -> None:
        args = [reservation, account, images, 60_000]
        assert 1 == self._run("mark_sent", [self._name(reservation), *self._open()], args)

    def extend(self, reservation: str) -> None:
        assert 1 == self._run("renew", ["open"], [60_000, reservation, "k1"])

    def settle(self, reservation: str, calls: str = "", retention_days: int = 3660) -> None:
        outcome = "delivered" if calls else "not_sent"
        told: dict[str, Any] = {"settlement": outcome, "was_sent": bool(calls), "calls": calls}
        told |= {"queue_ms": 1, "upstream_ms": 2, "total_ms": 3, "key_id": "k1"}
        self._settle(reservation, retention_days, told)

    def fail(self, reservation: str, outcome: str) -> None:
        """Settles a request that was sent and delivered nothing."""
        told: dict[str, Any] = {
            "settlement": outcome,
            "was_sent": True,
            "calls": "u/a:0,0,0,1" * (outcome == "unconfirmed"),
        }
        told |= {"queue_ms": 1, "upstream_ms": 2, "total_ms": 3, "key_id": "k1"}
        self._settle(reservation, 3660, told)

    def expire(self, reservation: str, retention_days: int = 3660) -> str:
        return str(self._settle(reservation, retention_days, {})["status"])

    def used(self) -> dict[str, Any]:
        found = self._run("admit", ["tenant", "keys", "x", *self._open(), "rate", "x"], ["", "", "", "", 0, "", 0])
        return dict(found["used"])

    def _settle(self, reservation: str, retention_days: int, told: dict[str, Any]) -> dict[str, Any]:
        outcome = {"reservation": reservation, "charges_withheld": False, "charges_unconfirmed": True} | told
        return dict(self._run("settle", [self._name(reservation), "open"], [json.dumps(outcome), retention_days]))

    def _run(self, script: str, names: list[str], args: list[Any]) -> Any:
        reply = self._scripts[script](keys=[BASE + name for name in names], args=args)
        return reply if isinstance(reply, int) else json.loads(reply)

    @staticmethod
    def _name(reservation: str) -> str:
        return f"reservation:{reservation}"

    @staticmethod
    def _open() -> list[str]:
        return ["open", "key:k1:open"]
