"""What befalls a pool: jumps of the clock, outages of Redis, reloads, deaths of processes, accounts that are held."""

from functools import partial
from typing import TYPE_CHECKING, Final

from tests.scheduler.plans import LENGTH_S, hold
from tests.scheduler.processes import Process
from tests.scheduler.reports import encode

if TYPE_CHECKING:
    from tests.scheduler.histories import History

APART_S: Final = 30.0
"""Between two of what a pool takes for an outage: processes renew their leases in a quarter of a lease."""


class Mishaps:
    """Plans those of one history."""

    def __init__(self, history: "History") -> None:
        self._history = history
        self._random = history.random
        self._taken: list[tuple[float, float]] = []

    def plan(self) -> None:
        history, plan = self._history, self._history.plan
        for _ in range(plan.outages):
            lasts_s = self._random.uniform(20, 120)
            start_s = self._free(lasts_s + 3)
            if start_s is not None:
                history.at(start_s, partial(self._outage, lasts_s))
        for _ in range(plan.jumps):
            jump_s = self._random.choice((-300, -70, -61, -30, -3, -0.5, 0.5, 5, 29, 40, 90)) * self._random.uniform(
                0.5, 1
            )
            start_s = self._free(0)
            if start_s is not None:
                history.at(start_s, partial(self._jump, jump_s))
        for count, act in ((plan.reloads, self._reload), (plan.holds, self._hold), (plan.deaths, self._die)):
            for _ in range(count):
                history.at(self._random.uniform(5, LENGTH_S), act)
        history.at(LENGTH_S, self._finish)

    def _free(self, lasts_s: float) -> float | None:
        """A moment for something that disturbs all leases; None where there is none apart from the others."""
        for _ in range(20):
            start_s = self._random.uniform(5, LENGTH_S - lasts_s)
            if all(start_s > end + APART_S or start_s + lasts_s + APART_S < start for start, end in self._taken):
                self._taken.append((start_s, start_s + lasts_s))
                return start_s
        return None

    def _outage(self, lasts_s: float) -> None:
        history = self._history
        for process in history.living:
            process.back_s = history.now_s + lasts_s + self._random.uniform(0, 3)
            history.at(process.back_s, partial(self._reconnect, process))

    @staticmethod
    def _reconnect(process: Process) -> None:
        if process.is_alive:
            process.is_shaken = True
            process.look_after(0)

    def _jump(self, seconds: float) -> None:
        history = self._history
        history.ahead_s += seconds
        history.jumped_s = history.now_s
        history.provider.jump(seconds, history.now_s)
        history.watch.reset()
        if seconds < 0:
            history.jumped_back_s -= seconds
            history.rests = {
                field: (min(until_s, history.server_s + rest_s), rest_s)
                for field, (until_s, rest_s) in history.rests.items()
                if until_s > history.server_s - seconds  # another may have been tried since
            }

    def _reload(self) -> None:
        history = self._history
        configuration = history.plan.configuration = history.plan.draw_configuration()
        for process in history.living:
            wait_s = self._random.choice((0, 0, 5, 60)) * self._random.random()
            process.later(wait_s, history.declare, process, configuration)

    def _die(self) -> None:
        """Another takes its place; one that ends in order says so."""
        history = self._history
        process = self._random.choice(history.living)
        history.start()
        if self._random.random() < 0.5 and process.configuration and history.now_s >= process.back_s:
            history.declarations.withdraw(process.name)
            history.run("members", "withdraw", encode(hold(process.name, process.configuration)), "")
        process.die()

    def _hold(self) -> None:
        history = self._history
        if any(history.now_s < process.back_s for process in history.living):
            return
        account = self._random.choice(list(history.provider.accounts))
        member = self._random.choice([account, *(f"{account}/{key}" for key in history.watch.keys[account])])
        event = self._random.choice(("disable", "drain"))
        self._say(member, event)
        history.at(history.now_s + self._random.uniform(5, 90), partial(self._say, member, "enable"))

    def _say(self, member: str, event: str) -> None:
        """A person's word."""
        history = self._history
        if any(history.now_s < process.back_s for process in history.living):
            return
        owner, _, key = member.partition("/")
        if owner not in history.watch.keys or (key and key not in history.watch.keys[owner]):
            return
        if event == "enable":
            history.held.discard(member)
            history.rests = {field: rest for field, rest in history.rests.items() if not _concerns(field, member)}
        said = f'{{"event":"{event}","since_us":0,"by":"x"}}'
        answer = history.run("members", "hold", member, said)
        assert answer["decision"] == "done", answer
        if event != "enable":
            history.held.add(member)

    def _finish(self) -> None:
        """Every process dies, or ends in order: what it has in flight ends, and what waits for it is given up."""
        for process in self._history.living:
            if self._random.random() < 0.5:
                process.die()
            else:
                for lease_id in list(process.places):
                    process.give_up(lease_id)


def _concerns(field: str, member: str) -> bool:
    """Whether a cooldown is that of a member, or of a part of it."""
    owner = field.partition("|")[0]
    return owner == member or owner.startswith(f"{member}/")
