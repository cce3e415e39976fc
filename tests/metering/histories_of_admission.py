"""Random histories of admission: the project's Lua on a real server, on a clock of its own, beside a model of it.

A history is drawn from the model alone. So it is sent in one message, and compared step by step afterwards: each reply,
and all that Redis holds.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import redis

from gateway.metering.reservations import PARTS
from tests.metering.model_of_admission import BATCHES, KEYS, LENGTH_S, MODELS, Process, Ticket, World
from tests.support.clocked import Clock, clocked_script

_STATE: Final = """
local found = {}
for i, name in ipairs(KEYS) do
  local kind = redis.call('TYPE', name).ok
  if kind == 'hash' then found[i] = redis.call('HGETALL', name)
  elseif kind == 'zset' then found[i] = redis.call('ZRANGE', name, 0, -1, 'WITHSCORES')
  elseif kind == 'stream' then found[i] = {'length', tostring(redis.call('XLEN', name))}
  else found[i] = {'', '0'} end
end
return cjson.encode(found)
"""
_DECLARE: Final = """
redis.call('HSET', KEYS[1], 'created_at', '1', 'disabled', '0', 'limits', ARGV[1])
redis.call('HSET', KEYS[2], 'k1', ARGV[2], 'k2', ARGV[3])
return '{}'
"""
Mutant = tuple[str, str, str]
"""A script, a part of its text, and what stands in its place."""


@dataclass(frozen=True)
class Step:
    """One call of a script, and what is to be found after it."""

    now_ms: int
    script: str
    keys: tuple[str, ...]
    args: tuple[str | int, ...]
    replies: list[dict[str, Any]]
    """Any of them, as a part of the reply."""
    state: dict[str, dict[str, int]]


class History:
    """Draws the steps of one history."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.random = self.world.random
        self.batch_share = self.random.choice((0.0, 0.0, 0.4))

    def steps(self) -> Iterator[Step]:
        world, lived_s = self.world, 0.0
        yield self.declare()
        while lived_s < LENGTH_S:
            passed_s = self.random.choice((0, 0.004, 0.3, 1, 2, 5, 13))
            lived_s += passed_s
            self.move(round(passed_s * 1000))
            if self.random.random() < 0.03:
                self.jump()
            yield from self.draw()
        self.move(
            max([world.now_ms, *(reservation.expires_ms for reservation in world.reservations.values())]) - world.now_ms
        )
        for reservation in world.reservations.values():
            yield self.expire(reservation)

    def move(self, ms: int) -> None:
        world = self.world
        world.now_ms += ms
        world.newest_ms = max(world.newest_ms, world.now_ms)
        world.used_days()

    def jump(self) -> None:
        """The clock is set: by up to a minute back from its latest, some forward, or to another time altogether.

        No second in which Redis has forgotten what was admitted is lived through again.
        """
        world = self.world
        match self.random.randrange(4):
            case 0:
                self.move(self.random.choice((5_000, 31_000, 65_000, 120_000)))
            case 1:
                era = self.random.choice([number for number in range(-90, 90) if number not in world.eras])
                world.eras.add(era)
                world.now_ms = world.newest_ms = (world.start_s + era * 1000) * 1000
                self.move(0)
            case _:
                back_ms = self.random.choice((3, 1_000, 5_000, 30_000, 60_000))
                self.move(-min(back_ms, 60_000 - (world.newest_ms - world.now_ms)))

    def draw(self) -> Iterator[Step]:
        world, chance = self.world, self.random.random()
        if chance < 0.4 or not world.reservations:
            reservation_id = f"t{len(world.reservations)}-{world.now_ms}"
            args = self.random.choice(world.processes), self.random.choice(KEYS), self.random.choice(MODELS)
            images = self.random.choice((1, 1, 2, 4, 9))
            batch = self.random.choice(BATCHES) if self.random.random() < self.batch_share else ""
            for _ in range(1 + (self.random.random() < 0.1)):  # its reply was lost: it is asked again
                yield self.admit(reservation_id, *args, images, batch)
            return
        reservation = self.pick()
        if chance < 0.42 and not reservation.is_gone:
            own = (reservation.process, reservation.key, reservation.model, reservation.asked, reservation.batch)
            yield self.admit(reservation.id, *own)
        elif chance < 0.62:
            images = self.random.randint(1, reservation.asked)
            yield self.send(reservation, self.random.choice(("u/a", "u/b")), images)
        elif chance < 0.68 and (account := next(iter(reservation.sent), None)):
            yield self.send(reservation, account, -self.random.randint(0, max(0, reservation.sent[account])))
        elif chance < 0.73:
            yield self.extend(reservation.process)
        elif chance < 0.80:
            yield self.expire(reservation)
        elif chance < 0.98:
            yield self.settle(reservation)
        else:
            world.limits = world.draw_limits()
            yield self.declare()

    def pick(self) -> Ticket:
        """Mostly one that is open, and one of the last."""
        reservations = list(self.world.reservations.values())
        are_open = [reservation for reservation in reservations if reservation.is_open]
        return self.random.choice(are_open if are_open and self.random.random() < 0.7 else reservations[-12:])

    def step(self, script: str, keys: tuple[str, ...], args: tuple[str | int, ...], *replies: Any) -> Step:
        found = [reply if isinstance(reply, dict) else {"": reply} for reply in replies]
        names = tuple(self.world.base + name for name in keys)
        return Step(self.world.now_ms, script, names, args, found, self.world.state())

    def declare(self) -> Step:
        """Not a script of the project: the limits, as the stores write them."""
        limits = self.world.limits
        keys = [json.dumps({"mac": "", "created_at": 1, "limits": limits[key]}) for key in KEYS]
        return self.step("declare", ("tenant", "keys"), (json.dumps(limits[""]), *keys), {})

    def admit(self, reservation_id: str, process: Process, key: str, model: str, images: int, batch: str) -> Step:
        names = (
            "tenant",
            "keys",
            f"reservation:{reservation_id}",
            "open",
            f"key:{key}:open",
            "rate",
            f"key:{key}:rate",
        )
        costs = ",".join(f"{since}:{images * micros}" for since, micros in process.prices)
        replies = self.world.admit(reservation_id, process, key, model, images, batch)
        line = {"batch_id": batch, "custom_id": reservation_id}
        args = (reservation_id, key, "rq", model, images, costs, process.lease_ms, 0, "", "", "", "")
        return self.step("admit", names, (*args, json.dumps(line if batch else None)), *replies)

    def send(self, reservation: Ticket, account: str, images: int) -> Step:
        names = (f"reservation:{reservation.id}", "open", f"key:{reservation.key}:open")
        args = (reservation.id, account, images, reservation.process.lease_ms)
        return self.step("mark_sent", names, args, self.world.send(reservation, account, images))

    def extend(self, process: Process) -> Step:
        mine = [reservation for reservation in self.world.reservations.values() if reservation.process is process]
        ids = [part for reservation in mine for part in (reservation.id, reservation.key)]
        return self.step("renew", ("open",), (process.lease_ms, *ids), self.world.extend(mine, process.lease_ms))

    def expire(self, reservation: Ticket) -> Step:
        retention_days = self.random.choice(self.world.processes).retention_days
        reply = self.world.settle_expired(reservation, retention_days)
        return self.settled(reservation, retention_days, {}, reply)

    def settle(self, reservation: Ticket) -> Step:
        """By itself: for the first time, again, or again with another tally: an answer that came late."""
        left, counts = reservation.asked, []
        for _ in range(4):
            counts.append(self.random.randint(0, left))
            left -= counts[-1]
        calls = f"u/a:{','.join(map(str, counts))}" if reservation.sent else ""
        outcome, retention_days = ("delivered" if calls else "not_sent"), reservation.process.retention_days
        if not reservation.is_open and self.random.random() < 0.3:
            outcome, calls = reservation.outcome, reservation.calls
        reply = self.world.settle(reservation, outcome, calls, retention_days, was_sent=bool(calls))
        told = {"settlement": outcome, "was_sent": bool(calls), "calls": calls, "key_id": reservation.key}
        told |= {"queue_ms": 1, "upstream_ms": 2, "total_ms": 3}
        return self.settled(reservation, retention_days, told, reply)

    def settled(self, reservation: Ticket, retention_days: int, told: dict[str, Any], reply: dict[str, Any]) -> Step:
        withheld, unconfirmed = map(bool, self.world.charges)
        outcome = {"reservation": reservation.id, "charges_withheld": withheld, "charges_unconfirmed": unconfirmed}
        names = (f"reservation:{reservation.id}", "open")
        return self.step("settle", names, (json.dumps(outcome | told), retention_days), reply)


class Replay:
    """Runs histories on one server."""

    def __init__(self, client: "redis.Redis", mutant: Mutant | None = None) -> None:
        self._client = client
        names = ("admit", "mark_sent", "renew", "settle")
        self._scripts = {name: clocked_script(client, f"metering/{name}", PARTS.get(name, ())) for name in names}
        self._scripts |= {"declare": client.register_script(_DECLARE), "state": client.register_script(_STATE)}
        if mutant:
            name, before, after = mutant
            text = str(self._scripts[name].script)
            assert 1 == text.count(before), mutant
            self._scripts[name] = client.register_script(text.replace(before, after))

    def run(self, seed: int) -> str:
        """Returns: the first thing that is not as the model says; empty where there is none."""
        history = History(seed)
        steps = list(history.steps())
        names = history.world.names()
        found = self._send(steps, [history.world.base + name for name in names])
        for number, step in enumerate(steps):
            _, reply, state = found[3 * number : 3 * number + 3]
            for wrong in _wrong(step, reply, state, names):
                return f"seed {seed}, step {number} of {len(steps)}, {step.script} {step.args}: {wrong}"
        return next(self._wrong_books(history.world), "")

    def _send(self, steps: Iterable[Step], names: list[str]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for step in steps:
                Clock(pipeline, step.now_ms / 1000)
                self._scripts[step.script](keys=step.keys, args=step.args, client=pipeline)
                self._scripts["state"](keys=names, client=pipeline)
            return pipeline.execute(raise_on_error=False)

    def _wrong_books(self, world: World) -> Iterator[str]:
        """One record a ticket, which says what the sums do; and until when they are kept."""
        records: dict[str, dict[str, str]] = {}
        for day in sorted(world.days):
            entries: Any = self._client.xrange(f"{world.base}ledger:{day}")
            for _, fields in entries:
                if fields["reservation"] in records:
                    yield f"{fields['reservation']} is in the ledger twice"
                records[fields["reservation"]] = fields | {"day": day}
        sent = {reservation.id for reservation in world.reservations.values() if reservation.is_recorded}
        if records.keys() != sent:
            yield f"in the ledger or sent, not both: {records.keys() ^ sent}"
        for name, reservation in world.reservations.items():
            expected = {measure: f"{amount}" for measure, amount in reservation.record.items() if measure != "requests"}
            expected |= {"outcome": reservation.outcome, "calls": reservation.calls, "day": reservation.day}
            expected |= {"batch_id": reservation.batch, "custom_id": name} if reservation.batch else {}
            if reservation.is_recorded and not expected.items() <= records[name].items():
                yield f"record {records[name]} in the place of {expected}"
        ends = self._client.hgetall(f"{world.base}records_end")
        if ends != {day: f"{end_s}" for day, end_s in world.ends.items()}:
            yield f"the records end {ends} in the place of {world.ends}"


def _wrong(step: Step, reply: Any, state: Any, names: list[str]) -> Iterator[str]:
    if isinstance(reply, Exception) or isinstance(state, Exception):
        yield f"{reply} {state}"
        return
    told = {"": reply} if isinstance(reply, int) else json.loads(reply)
    if not any(expected.items() <= told.items() for expected in step.replies):
        yield f"{told} in the place of {step.replies}"
    for name, fields in zip(names, json.loads(state), strict=True):
        expected = step.state.get(name, {})
        if expected != (found := _read(name, fields, step.now_ms // 1000)):
            yield f"{name}: {found} in the place of {expected}"


def _read(name: str, fields: list[str], now_s: int) -> dict[str, int]:
    """What counts now, by name; without zeros."""
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    if name.endswith("rate"):
        parts = [(second, *value.split()) for second, value in pairs if second and now_s - 60 <= int(second) <= now_s]
        pairs = [
            pair
            for second, requests, images in parts
            for pair in ((f"{second} requests", requests), (f"{second} images", images))
        ]
    return {field: int(value) for field, value in pairs if int(value)}
