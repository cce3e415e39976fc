"""Random histories of a pool: several processes, accounts with little room, and everything that may befall them.

What is checked: each call against the limits (provider.py); each grant against holds, cooldowns and the order of the
queue; that no request waits beside an account that could serve it (liveness.py); that in the end nothing is held.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Any, Final

import redis

from gateway.scheduler import channel_of
from tests.scheduler.declarations import Declarations
from tests.scheduler.endings import check_end
from tests.scheduler.lanes import check_lanes
from tests.scheduler.liveness import Watch, check_counts
from tests.scheduler.mishaps import Mishaps
from tests.scheduler.needs import Need
from tests.scheduler.order import check_kept, check_order
from tests.scheduler.plans import LENGTH_S, Configuration, Plan, hold
from tests.scheduler.processes import Process, Request
from tests.scheduler.provider import Call, Provider, WrongError
from tests.scheduler.reports import encode
from tests.scheduler.scripted_pool import ClockedPool

START_S: Final = 1_785_000_000.0
CALM_S: Final = 2.0
GRANTS_MAX: Final = 2
"""In one script; a heartbeat gives the rest."""


class History:
    """One of them. Its own time is `now_s`; that of the scripts is `server_s`."""

    def __init__(self, pool: ClockedPool, seed: int) -> None:
        self.random = random.Random(seed)
        self.plan = Plan(self.random)
        self.lease_us = round(self.plan.lease_s * 1e6)
        self.pool = pool
        self.now_s = 0.0
        self.ahead_s = 0.0
        self.jumped_s = -CALM_S
        """When the clock was set last, and by how much it was set back altogether."""
        self.jumped_back_s = 0.0
        self.interactive_s = -math.inf
        """When an interactive call was last requested, on the scripts' clock."""
        self.provider = Provider(self.plan.margin_s)
        self.watch = Watch(self.provider, self.plan.paced)
        self.declarations = Declarations()
        self.processes: list[Process] = []
        self.ghosts: dict[str, Need] = {}
        """What waits in Redis, while no process waits for it."""
        self.calls: dict[str, Call] = {}
        self.held: set[str] = set()
        self.rests: dict[str, tuple[float, float]] = {}
        """By field of `health`: until when something is out of use at least, on the scripts' clock; and seconds."""
        self.passes: dict[str, float] = {}
        self._given = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.scripts_run = 0

    @property
    def server_s(self) -> float:
        return START_S + self.now_s + self.ahead_s

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_s, self.now_s), next(self._numbers), act))

    def run_all(self) -> str:
        """Returns: the first thing that is wrong; empty where there is none."""
        try:
            self._begin()
            while self._events:
                self.now_s, _, act = heapq.heappop(self._events)
                act()
            check_end(self)
        except (WrongError, redis.ResponseError) as error:
            return f"after {self.now_s:.3f} s of {self.plan.what}: {type(error).__name__}: {error}"
        return ""

    def _begin(self) -> None:
        for _ in range(self.plan.processes):
            self.start()
        self.at(self.random.expovariate(1 / self.plan.pause_s), self._arrive)
        self.at(1.0, self._look_each_second)
        Mishaps(self).plan()

    def start(self) -> Process:
        process = Process(self, f"p{len(self.processes)}")
        process.back_s = max((other.back_s for other in self.processes), default=0.0)
        self.processes.append(process)
        process.later(0, self.declare, process, self.plan.configuration)
        return process

    @property
    def living(self) -> list[Process]:
        return [process for process in self.processes if process.is_alive]

    # Declarations

    def declare(self, process: Process, configuration: Configuration) -> None:
        """Also what a process does that Redis has forgotten."""
        process.configuration = configuration
        if self.now_s < process.back_s:
            process.later(process.back_s - self.now_s, self.declare, process, configuration)
            return
        self.declarations.declare(process.name, configuration, self.server_s)
        self._apply()
        self.run("members", "declare", encode(configuration.describe(process.name)), "")
        process.later(20.0, self.renew, process, configuration)

    def renew(self, process: Process, configuration: Configuration) -> None:
        if configuration is not process.configuration or self.now_s > LENGTH_S:
            return
        if self.now_s < process.back_s:
            process.later(process.back_s - self.now_s, self.renew, process, configuration)
            return
        is_known = self.declarations.renew(process.name, configuration, self.server_s)
        self._apply()
        answer = self.run("members", "renew", encode(hold(process.name, configuration)), "")
        if is_known == (answer["decision"] == "unknown"):
            raise WrongError(f"{configuration.digest} is {answer['decision']}")
        if is_known:
            process.later(20.0, self.renew, process, configuration)
        else:
            self.declare(process, configuration)

    def _apply(self) -> None:
        before = self.watch.keys
        self.provider.declare(self.declarations.accounts, self.now_s)
        self.watch.keys = self.declarations.keys
        for account, keys in before.items():
            kept = self.watch.keys.get(account, {})
            changed = [f"{account}/{key}" for key, fingerprint in keys.items() if kept.get(key) != fingerprint]
            gone = {*changed, account} if not kept else {*changed}
            self.rests = {field: rest for field, rest in self.rests.items() if field.partition("|")[0] not in gone}

    # Scripts

    def run(self, act: str, *args: str | float) -> dict[str, Any]:
        """One script, and what it granted."""
        before = self.passes
        if act in {"lease", "heartbeat", "release", "snapshot"}:
            if self.provider.is_set_back:
                self.declarations.set_back(self.server_s)
            self.provider.look_after(self.now_s)
        else:
            self.provider.recount(self.now_s)
        step = self.pool.run(act, self.server_s, *args)
        self.scripts_run += 1
        self.passes = step.passes
        new = [lease_id for lease_id in step.grants if lease_id not in self.calls]
        self._given = len(new)
        leases = zip(new, self.pool.leases(new) if new else (), strict=True)
        granted = [self._granted(lease_id, lease, step.grants[lease_id]) for lease_id, lease in leases]
        if granted and not self.plan.paced:
            check_order(self, granted, before)
        return step.answer

    def _granted(self, lease_id: str, lease: dict[str, Any], channel: str) -> Need:
        process = next(one for one in self.processes if channel_of(one.name) == channel)
        request = process.places.get(lease_id)
        need = request.need if request else self.ghosts.pop(lease_id)
        self._give(need, lease["a"], lease["k"], lease["f"], is_granted=True)
        chance = self.random.random()
        if chance < 0.04 and request:
            request.deaf_until_s = self.now_s + self.random.uniform(5, 14)
        elif chance < 0.9:
            process.later(self.random.uniform(0, 0.1), process.hear, lease_id)
        return need

    def leased(self, need: Need, answer: dict[str, Any]) -> Call:
        """A lease that begins now, be it one that was granted before."""
        call = self.calls.get(need.id)
        if call is None:
            return self._give(need, answer["account"], answer["key"], answer["fingerprint"], is_granted=False)
        if (call.account, call.key) != (answer["account"], answer["key"]):
            raise WrongError(f"{need.id} was granted {call.member}, and gets {answer}")
        self.provider.claim(call, self.now_s)
        return call

    def _give(self, need: Need, account: str, key: str, fingerprint: str, *, is_granted: bool) -> Call:
        now_s = self.now_s
        call = Call(need.id, account, key, fingerprint, need.model, need.images, now_s, now_s, is_granted)
        self.calls[need.id] = call
        self.provider.give(call)
        member = call.member
        if self.watch.keys.get(account, {}).get(key) != fingerprint or {account, member} & self.held:
            raise WrongError(f"{need} is given {member}, which is not in use")
        if {account, f"{account}/", member} & set(need.avoided):
            raise WrongError(f"{need} is given {member}")
        for field in ("*", account, member, f"{member}|{need.model}"):
            until_s = self.rests.get(field, (0.0, 0.0))[0]
            if until_s > self.server_s + 0.01:
                raise WrongError(
                    f"{need} is given {member}, but {field} is out of use for {until_s - self.server_s:.3f} s"
                )
        check_kept(need, account, self)
        return call

    # What becomes of requests

    def refused(self, need: Need, answer: dict[str, Any]) -> None:
        """Raises: WrongError, if an account could have served it."""
        if answer["decision"] not in {"busy", "down", "nothing", "spent"}:
            raise WrongError(f"{need}: {answer}")
        is_judged = answer["decision"] != "spent" and self._given < GRANTS_MAX
        if is_judged and self.watch.may_have_room(self.now_s):
            waiting = [request.need for process in self.living for request in process.places.values()]
            self.watch.refuse(need, [*waiting, *self.ghosts.values()], self.pool.state(), self.now_s, self.server_s)

    def taken_back(self, lease_id: str) -> None:
        """Redis knows that nothing is sent with it."""
        self.ghosts.pop(lease_id, None)
        call = self.calls.get(lease_id)
        if call:
            self.provider.take_back(call)

    def released(self, call: Call, said: dict[str, Any]) -> None:
        if said.get("is_unsent"):
            self.provider.take_back(call)
        elif "later_us" in said:
            self.provider.report_late(call, self.now_s)
        if not call.is_released and self._may_serve():
            self._look(freed=call.account if self._given < GRANTS_MAX else "")
        call.is_released = True
        fields = {"key": call.member, "model": f"{call.member}|{call.model}", "account": call.account, "upstream": "*"}
        if said.get("is_unauthorized"):  # it may raise the alarm, which ends the cooldowns of all keys
            self.rests = {field: rest for field, rest in self.rests.items() if "/" not in field or "|" in field}
        elif "scope" in said and self.watch.keys.get(call.account, {}).get(call.key) == call.fingerprint:
            field, until_s = fields[said["scope"]], self.server_s + said["seconds"]
            kept = self.pool.cooldown(field)
            is_kept = (
                kept and not kept.get("by") and kept["until_us"] / 1e6 > until_s - 0.01
            )  # not one tenant's word alone
            if is_kept and until_s > self.rests.get(field, (0.0, 0.0))[0]:
                self.rests[field] = until_s, said["seconds"]

    # The course of things

    def _arrive(self) -> None:
        if self.now_s > LENGTH_S:
            return
        burst = self.random.randint(5, 20) if self.random.random() < self.plan.burst_share else 1
        for _ in range(burst):
            process = self.random.choice(self.living)
            patience_s = self.plan.draw_patience_s()
            process.ask(Request(self.plan.draw_need(), self.now_s + patience_s))
        self.at(
            self.now_s + self.random.expovariate(1 / (self.plan.pause_s * (1 + 10 * self.plan.burst_share))),
            self._arrive,
        )

    def _look_each_second(self) -> None:
        if self.now_s < LENGTH_S:
            self.at(self.now_s + 1.0, self._look_each_second)
        is_tenth = round(self.now_s) % 10 == 0
        if is_tenth and all(self.now_s >= process.back_s for process in self.living):
            self.run("snapshot", "0")
            self.run("has_capacity")
        if not self._is_calm:
            self.watch.reset()
        elif is_tenth or self._may_serve():
            self._look()
        else:
            self.watch.reset()

    @property
    def _is_calm(self) -> bool:
        """Since the last disturbance every process has renewed its leases and learnt which places it has lost."""
        return self.now_s > CALM_S + max([self.jumped_s, *(process.back_s for process in self.living)])

    def _may_serve(self) -> bool:
        is_any = self._is_calm and any(process.places for process in self.living)
        return is_any and self.watch.may_have_room(self.now_s)

    def _look(self, freed: str = "") -> None:
        waiting = [request.need for process in self.living for request in process.places.values()]
        self.ghosts = {name: need for name, need in self.ghosts.items() if self.pool.is_waiting(name)}
        state = self.pool.state()
        self.provider.reconcile(state.leased)
        check_counts(state, self.provider, self.now_s, self.server_s)
        check_lanes(state, *self.pool.meta("share_weight", "share_unmet"))
        for process in self.living:
            for lease_id in process.leases.keys() - state.leased.keys():
                raise WrongError(f"{lease_id} is forgotten while its process lives")
        waiting = [need for need in waiting if need.id not in self.calls]
        self.watch.look(waiting, list(self.ghosts.values()), state, self.now_s, self.server_s, freed)
