"""A gateway process of a history, as far as the pool hears of it: what `KeyPool` and `Queue` do, step by step."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.domain.errors import ERROR_SPECS, ErrorCode, Outcome
from gateway.scheduler import channel_of
from tests.scheduler.needs import Need
from tests.scheduler.plans import LENGTH_S, Configuration
from tests.scheduler.provider import LATE_S, Call, WrongError
from tests.scheduler.reports import describe, encode

if TYPE_CHECKING:
    from tests.scheduler.histories import History

TURN_S: Final = 1.0
ALIVE_US: Final = 6_000_000
SOON_S: Final = 0.002
ASKS_MAX: Final = 60
"""More often one request does not ask in five minutes."""


class AwayError(Exception):
    """Redis cannot be reached."""


@dataclass(eq=False)
class Request:
    """One call that a client wants."""

    need: Need
    ends_s: float
    """Until when it waits; below 0, it takes only what stands free."""
    asked: str = ""
    repeat: int = 0
    asks: int = 0
    deaf_until_s: float = 0.0
    """Its process is held up, and does not take what it is given."""


@dataclass(eq=False)
class Process:
    """What one process holds and waits for."""

    history: "History"
    name: str
    is_alive: bool = True
    back_s: float = 0.0
    """It reaches Redis from then on."""
    places: dict[str, Request] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    """Id -> microseconds by which its call was sent later than it was leased."""
    calls: dict[str, Call] = field(default_factory=dict)
    abandoned: dict[str, None] = field(default_factory=dict)
    due_s: float = float("inf")
    renewed_s: float = 0.0
    is_shaken: bool = False
    made: int = 0
    configuration: Configuration | None = None

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        """Unless it dies before."""
        self.history.at(self.history.now_s + seconds, lambda: act(*args) if self.is_alive else None)

    def run(self, act: str, *args: str | float) -> dict[str, Any]:
        """Raises: AwayError."""
        if self.history.now_s < self.back_s:
            raise AwayError
        return self.history.run(act, *args)

    # Asking

    def ask(self, request: Request) -> None:
        history, need = self.history, request.need
        self.made += 1
        request.asks += 1
        if request.asks > ASKS_MAX:
            raise WrongError(f"{need} asks again and again")
        lease_id = f"{self.name}-{self.made}"
        request.need = need = replace(need, id=lease_id)
        taken_s = history.now_s - history.random.uniform(0, 0.1)
        patience_s = -1.0 if request.ends_s < 0 else max(0.0, request.ends_s - history.now_s)
        args: list[str | float] = [lease_id, channel_of(self.name), need.tenant, need.weight, need.images, need.model]
        args += [round(patience_s * 1e6), request.asked, request.repeat, history.lease_us, ALIVE_US]
        self.places[lease_id] = request
        try:
            answer = self.run("lease", *args, need.priority, *need.avoided)
            if need.priority == "i":
                history.interactive_s = history.server_s
        except AwayError:
            self.give_up(lease_id)
            return
        request.asked = answer.get("requested_us", request.asked)
        if answer["decision"] == "leased":
            del self.places[lease_id]
            call = history.leased(need, answer)
            if history.random.random() < 0.02:
                self.abandon(lease_id)  # the reply was lost
            else:
                self.begin(call, request, taken_s)
        elif answer["decision"] == "wait":
            self.wait(request)
        else:
            del self.places[lease_id]
            history.refused(need, answer)

    def wait(self, request: Request) -> None:
        lease_id, random = request.need.id, self.history.random
        self.look_after(0 if len(self.places) == 1 else TURN_S)
        if random.random() < 0.02:
            self.give_up(lease_id)
            return
        self.later(max(0.0, request.ends_s - self.history.now_s), self.stop, lease_id, False)
        if random.random() < 0.1:
            self.later(random.uniform(0, 60), self.stop, lease_id, True)

    def stop(self, lease_id: str, is_left: bool) -> None:
        """The client has left, or its patience is over: then it asks a last time."""
        request = self.places.get(lease_id)
        if request is None:
            return
        self.give_up(lease_id)
        self.give_up_abandoned()
        if not is_left:
            self.ask(request)

    def hear(self, lease_id: str) -> None:
        """It was given something."""
        request = self.places.get(lease_id)
        if request is None or self.history.now_s < request.deaf_until_s:
            return
        taken_s = self.history.now_s - self.history.random.uniform(0, 0.1)
        try:
            answer = self.run("claim", lease_id, self.history.lease_us)
        except AwayError:
            self.give_up(lease_id)
            return
        if answer["decision"] == "leased":
            del self.places[lease_id]
            self.begin(self.history.leased(request.need, answer), request, taken_s)
        elif answer["decision"] == "forgotten":
            del self.places[lease_id]
            self.ask(request)

    # Calls

    def begin(self, call: Call, request: Request, taken_s: float) -> None:
        random = self.history.random
        if not self.leases:
            self.renewed_s = self.history.now_s
            self.look_after(self.history.plan.lease_s / 4)
        self.leases[call.id] = 0
        self.calls[call.id] = call
        chance = random.random()
        if chance < 0.04:
            self.later(random.uniform(0, 4), self.release, call, request, self.history.plan.draw_unsent())
        elif chance < 0.06:
            self.later(random.uniform(0, 1), self.drop, call)
        else:
            is_late = random.random() < self.history.plan.late_share
            self.later(
                random.uniform(0.3, 5) if is_late else random.uniform(0, 0.15), self.send, call, request, taken_s
            )

    def send(self, call: Call, request: Request, taken_s: float) -> None:
        history = self.history
        history.provider.send(call, history.now_s, taken_s)
        if call.late_s and call.id in self.leases:
            self.leases[call.id] = round(call.late_s * 1e6)
        self.later(history.plan.draw_length_s(), self.end, call, request, taken_s)

    def end(self, call: Call, request: Request, taken_s: float) -> None:
        self.history.provider.end(call)
        late_s = call.sent_s - taken_s
        error_code = self.history.plan.draw_fault()
        self.later(self.history.random.uniform(0, 0.1), self.release, call, request, error_code, late_s)

    def drop(self, call: Call) -> None:
        """Its client left before the call was sent."""
        self.calls.pop(call.id)
        self.leases.pop(call.id)
        self.abandon(call.id)

    def release(self, call: Call, request: Request, error_code: ErrorCode | None, late_s: float = 0.0) -> None:
        """After an outage again, if the process kept what it had to say."""
        history = self.history
        self.calls.pop(call.id, None)
        self.leases.pop(call.id, None)
        said = describe(call, error_code, history.server_s)
        if late_s > LATE_S:
            said["later_us"] = round(late_s * 1e6)
        try:
            self.run("release", call.id, encode(said))
        except AwayError:
            if history.random.random() < 0.5:
                self.later(self.back_s - history.now_s + 0.5, self.release, call, request, error_code, late_s)
            return
        history.released(call, said)
        if history.random.random() < 0.03:
            self.later(0.2, self.release, call, request, error_code, late_s)  # its reply was lost
        elif error_code and ERROR_SPECS[error_code].outcome is not Outcome.UNKNOWN and history.now_s < LENGTH_S:
            avoided = (*request.need.avoided, call.member)
            repeat = 1 if ERROR_SPECS[error_code].trips_breaker else 2
            self.ask(replace(request, need=replace(request.need, avoided=avoided), repeat=repeat))

    # Looking after both

    def abandon(self, lease_id: str) -> None:
        self.abandoned[lease_id] = None
        self.look_after(0)

    def give_up(self, lease_id: str) -> None:
        """A place, whatever it may hold by now."""
        self.history.ghosts[lease_id] = self.places.pop(lease_id).need
        self.abandon(lease_id)

    def give_up_abandoned(self) -> None:
        some = list(self.abandoned)[:16]
        if not some or self.history.now_s < self.back_s:
            return
        self.run("cancel", *some)
        for lease_id in some:
            del self.abandoned[lease_id]
            self.history.taken_back(lease_id)

    def look_after(self, in_s: float) -> None:
        at_s = self.history.now_s + in_s
        if at_s < self.due_s:
            self.due_s = at_s
            self.history.at(at_s, lambda: self.beat() if self.is_alive and self.due_s == at_s else None)

    def beat(self) -> None:
        next_s, self.due_s = TURN_S, float("inf")
        was_shaken, self.is_shaken = self.is_shaken, True
        if self.history.now_s >= self.back_s:
            self.give_up_abandoned()
            next_s = self.turn(is_renewing=was_shaken)
            self.is_shaken = False
        if self.places or self.abandoned or self.is_shaken:
            self.look_after(next_s)
        elif self.leases:
            self.look_after(self.history.plan.lease_s / 4)

    def turn(self, *, is_renewing: bool) -> float:
        """A heartbeat. Returns: seconds until the next."""
        history, next_s = self.history, TURN_S
        if is_renewing or history.now_s - self.renewed_s >= history.plan.lease_s / 4 - TURN_S:
            leases = [f"{lease_id}|{late_us}" if late_us else lease_id for lease_id, late_us in self.leases.items()]
            if leases:
                self.run("heartbeat", channel_of(self.name), ALIVE_US, history.lease_us, len(leases), *leases)
            for lease_id, late_us in self.leases.items():
                if late_us:
                    history.provider.report_late(self.calls[lease_id], history.now_s)
            self.renewed_s = history.now_s
        waiting = list(self.places)
        answer = self.run("heartbeat", channel_of(self.name), ALIVE_US, history.lease_us, 0, *waiting)
        if answer.get("is_keeper") and answer["next_us"] >= 0:
            next_s = min(next_s, answer["next_us"] / 1e6 + SOON_S)
        for lease_id in answer.get("assigned", ()):
            self.hear(lease_id)
        for lease_id in (*answer.get("forgotten", ()), *answer.get("down", ())):
            request = self.places.get(lease_id)
            if request:
                self.give_up(lease_id)
                self.give_up_abandoned()
                self.ask(request)
        return next_s

    def die(self) -> None:
        """Its connections are closed: no call of it is under way any more, and nothing is given back."""
        self.is_alive = False
        for call in self.calls.values():
            self.history.provider.end(call)
        self.history.ghosts |= {lease_id: request.need for lease_id, request in self.places.items()}
