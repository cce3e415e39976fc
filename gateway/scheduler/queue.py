"""One process's part of the queues: its waiting requests, how they are woken, the heartbeats that keep their places.

A waiting request is woken by a message on the process's own channel. What a lost message would have said is asked once
a second, with the heartbeat; one process a pool, its keeper, also asks at the moment when something gets free.
"""

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

import structlog

from gateway.domain.errors import GatewayError
from gateway.redis import Client, Value, translate_redis_errors
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.scripts import LeaseReply, Scripts

_LOG = structlog.get_logger("imagegate.pool")
_T = TypeVar("_T")
_TURN_S: Final = 1.0
_ALIVE_S: Final = 6.0
"""A process that misses its heartbeat for this long loses its places in the queue."""
_SOON_S: Final = 0.002
"""After the moment at which something is free: the server's clock must have passed it."""
_IDLE_S: Final = 60.0
_LISTEN_PAUSE_S: Final = 0.5
_ABANDONED_A_SCRIPT: Final = 16
_IDS_A_SCRIPT: Final = 100
"""Waiting requests, or leases, that one script looks after."""


class WakeReason(Enum):
    """Why a wait ended."""

    GIVEN = "given"
    """There is a lease to claim."""
    GONE = "gone"
    """Redis does not know the place any more."""
    DOWN = "down"
    """The upstream cannot serve now."""
    LATE = "late"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Waiter:
    """One waiting request of this process."""

    upstream: str
    id: str
    woken: "asyncio.Future[WakeReason]"

    def wake(self, wake: WakeReason) -> None:
        """What is said first counts."""
        if not self.woken.done():
            self.woken.set_result(wake)

    def note_left(self, _: object) -> None:
        """The client is gone."""
        self.wake(WakeReason.LEFT)


@dataclass(slots=True)
class _UpstreamQueue:
    """What this process has in one upstream's pool."""

    places: dict[str, Waiter] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    """By id: microseconds by which its call was sent later than it was leased, if that is still to be reported."""
    abandoned: dict[str, None] = field(default_factory=dict)
    """Ids to be given up as soon as Redis can be asked, in order."""
    due_s: float = math.inf
    """Monotonic: when the next heartbeat is due."""
    renewed_s: float = 0.0
    """Monotonic: when all leases were renewed last."""
    is_shaken: bool = False
    """A heartbeat failed: the leases are to be renewed with the next that succeeds."""


class Queue:
    """Every waiting request and every lease of this process."""

    def __init__(
        self,
        redis: Client,
        scripts: Scripts,
        roster: AccountRegistry,
        channel: str,
        process: str,
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._roster = roster
        self.channel = channel
        self.alive_us = round(_ALIVE_S * 1e6)
        self._process = process
        self._monotonic = monotonic
        self._lease_s = lease_s
        self._numbers = itertools.count()
        self._parts: defaultdict[str, _UpstreamQueue] = defaultdict(_UpstreamQueue)
        self._is_due = asyncio.Event()

    def new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"

    def hold(self, upstream: str, lease_id: str) -> None:
        """Renew a lease from now on."""
        part = self._parts[upstream]
        if not part.leases:
            part.renewed_s = self._monotonic()
            self._look_after(part, self._lease_s / 4)
        part.leases[lease_id] = 0

    def untrack(self, upstream: str, lease_id: str) -> None:
        self._parts[upstream].leases.pop(lease_id, None)

    def note_late(self, upstream: str, lease_id: str, later_us: int) -> None:
        """Report it with the next heartbeat."""
        leases = self._parts[upstream].leases
        if lease_id in leases:
            leases[lease_id] = later_us

    def abandon(self, upstream: str, lease_id: str) -> None:
        """Give up, as soon as Redis can be asked, what a request that was cut off may hold."""
        part = self._parts[upstream]
        part.abandoned[lease_id] = None
        self._look_after(part, 0)

    def enter(self, upstream: str, lease_id: str) -> Waiter:
        """A request begins to wait, and is to be let out with `leave`."""
        place = Waiter(upstream, lease_id, asyncio.get_running_loop().create_future())
        part = self._parts[upstream]
        if not part.places:
            self._look_after(part, 0)
        part.places[lease_id] = place
        return place

    def leave(self, place: Waiter) -> None:
        del self._parts[place.upstream].places[place.id]

    async def sleep(self, place: Waiter, leaving: "asyncio.Future[object]", seconds: float) -> WakeReason:
        """Waits until the place gets a message, the client has left, or the time is over."""
        loop = asyncio.get_running_loop()
        late = loop.call_later(seconds, place.wake, WakeReason.LATE)
        leaving.add_done_callback(place.note_left)
        try:
            return await place.woken  # and not asyncio.wait, which keeps 1.5 KB for each that waits
        finally:
            late.cancel()
            leaving.remove_done_callback(place.note_left)
            place.woken = loop.create_future()

    async def listen(self) -> None:
        """Wakes requests that are given something; runs until cancelled, through every loss of the connection."""
        is_reported = False
        while True:
            try:
                async for lease_id in self._messages():
                    is_reported = False
                    if lease_id is None:
                        self._look_after_all()
                    elif not lease_id:
                        self._ask_now()
                    else:
                        self._wake_anywhere(lease_id)
            except (GatewayError, UnicodeDecodeError) as error:
                if not is_reported:
                    _LOG.warning("queue_subscription_lost", detail=str(error), remedy="asked once a second instead")
                is_reported = True
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def run_heartbeat(self) -> None:
        """Sends heartbeats, and asks how the waiting requests stand; runs until cancelled."""
        while True:
            now_s = self._monotonic()
            next_s = min((part.due_s for part in self._parts.values()), default=math.inf)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(next_s - now_s, _IDLE_S))):
                    await self._is_due.wait()
            self._is_due.clear()
            now_s = self._monotonic()
            due = [upstream for upstream, part in self._parts.items() if part.due_s <= now_s]
            await asyncio.gather(*(self._turn(upstream) for upstream in due))

    async def close(self) -> None:
        """Gives up what is still held when the program ends; what Redis cannot take expires."""
        for upstream in list(self._parts):
            with suppress(GatewayError):
                await self._give_up_abandoned(upstream)

    async def _messages(self) -> AsyncGenerator[str | None]:
        """Ids, after None for the beginning; "" asks for a heartbeat. Raises: GatewayError REDIS_UNAVAILABLE."""
        async with self._redis.pubsub() as messages:
            with translate_redis_errors():
                await messages.subscribe(self.channel)
                while True:
                    message = await messages.get_message(timeout=30.0)
                    if message:
                        yield str(message["data"]) if message["type"] == "message" else None

    async def _turn(self, upstream: str) -> None:
        """One heartbeat for an upstream. Whatever fails is done again in a second, also after an error of ours."""
        part, next_s = self._parts[upstream], _TURN_S
        part.due_s, was_shaken, part.is_shaken = math.inf, part.is_shaken, True
        try:
            await self._give_up_abandoned(upstream)
            next_s = await self._ask(upstream, is_renewing=was_shaken)
            part.is_shaken = False
        except GatewayError as error:
            _LOG.debug("queue_heartbeat_failed", upstream=upstream, detail=error.detail)
        finally:
            if part.places or part.abandoned or part.is_shaken:
                self._look_after(part, next_s)
            elif part.leases:
                self._look_after(part, self._lease_s / 4)

    async def _ask(self, upstream: str, *, is_renewing: bool) -> float:
        """A heartbeat. Returns: seconds until the next is due. Raises: GatewayError REDIS_UNAVAILABLE."""
        part, now_s, next_s = self._parts[upstream], self._monotonic(), _TURN_S
        is_renewing = is_renewing or now_s - part.renewed_s >= self._lease_s / 4 - _TURN_S
        held = part.leases if is_renewing else {}
        leases = [f"{lease_id}|{later_us}" if later_us else lease_id for lease_id, later_us in held.items()]
        for some in _slices(leases):
            await self._heartbeat(upstream, some, [])
        for batch in _slices(list(part.places.values())) or ([] if leases else [[]]):
            answer = await self._heartbeat(upstream, [], batch)
            if answer.decision == "unknown":
                await self._roster.restore(upstream)
                for place in batch:
                    place.wake(WakeReason.GONE)
                return _TURN_S
            self._tell(part, answer)
            if answer.is_keeper and answer.next_us >= 0:
                next_s = min(next_s, answer.next_us / 1e6 + _SOON_S)
        if is_renewing:
            part.renewed_s = now_s
        return next_s

    async def _heartbeat(self, upstream: str, leases: list[str], batch: list[Waiter]) -> LeaseReply:
        args: list[Value] = [self.channel, self.alive_us, round(self._lease_s * 1e6), len(leases), *leases]
        return await self._scripts.run("heartbeat", upstream, [*args, *(place.id for place in batch)])

    def _tell(self, part: _UpstreamQueue, answer: LeaseReply) -> None:
        for wake, ids in (
            (WakeReason.GIVEN, answer.given),
            (WakeReason.GONE, answer.gone),
            (WakeReason.DOWN, answer.down),
        ):
            for lease_id in ids:
                if lease_id in part.places:
                    part.places[lease_id].wake(wake)

    async def _give_up_abandoned(self, upstream: str) -> None:
        """Cancels the abandoned waits. Raises: GatewayError REDIS_UNAVAILABLE; the next heartbeat retries."""
        abandoned = self._parts[upstream].abandoned
        for some in _slices(list(abandoned), _ABANDONED_A_SCRIPT):
            await self._scripts.run("cancel", upstream, [*some])
            for lease_id in some:
                abandoned.pop(lease_id, None)

    def _wake_anywhere(self, lease_id: str) -> None:
        for part in self._parts.values():
            if lease_id in part.places:
                part.places[lease_id].wake(WakeReason.GIVEN)

    def _ask_now(self) -> None:
        """More is free than one script gives out, at some upstream."""
        for part in self._parts.values():
            if part.places:
                self._look_after(part, 0)

    def _look_after_all(self) -> None:
        """Redis is there again, or for the first time: places are asked for and leases renewed before they expire."""
        for part in self._parts.values():
            if part.places or part.leases:
                part.is_shaken = True
                self._look_after(part, 0)

    def _look_after(self, part: _UpstreamQueue, in_s: float) -> None:
        at_s = self._monotonic() + in_s
        if at_s < part.due_s:
            part.due_s = at_s
            self._is_due.set()


def _slices(items: list[_T], size: int = _IDS_A_SCRIPT) -> list[list[_T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
