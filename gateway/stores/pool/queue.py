"""One process's part of the queues: who waits here, how they are woken, and the signs of life that keep their places.

A waiting request is woken by a message on the process's own channel. What a lost message would have said is asked once
a second, with the sign of life; one process a pool, its keeper, also asks at the moment when something gets free.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from gateway.domain.faults import GatewayError
from gateway.stores import Client, Value, redis_faults
from gateway.stores.pool.roster import Roster
from gateway.stores.pool.scripts import Answer, Scripts

_LOG = structlog.get_logger("imagegate.pool")
_TURN_S: Final = 1.0
_ALIVE_S: Final = 6.0
"""A process without a sign of life for so long has no places any more."""
_SOON_S: Final = 0.002
"""After the moment at which something is free: the server's clock must have passed it."""
_IDLE_S: Final = 60.0
_LISTEN_PAUSE_S: Final = 0.5
_ABANDONED_A_TURN: Final = 100
_IDS_A_TURN: Final = 1000
"""Waiting requests that one script looks after."""


class Wake(Enum):
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
class Place:
    """One waiting request of this process."""

    upstream: str
    id: str
    woken: "asyncio.Future[Wake]"

    def wake(self, wake: Wake) -> None:
        """What is said first counts."""
        if not self.woken.done():
            self.woken.set_result(wake)

    def note_left(self, _: object) -> None:
        """The client is gone."""
        self.wake(Wake.LEFT)


class Queue:
    """Every waiting request and every lease of this process."""

    def __init__(
        self,
        redis: Client,
        scripts: Scripts,
        roster: Roster,
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
        self._places: dict[str, dict[str, Place]] = {}
        self._leases: dict[str, dict[str, int]] = {}
        """By upstream and id: how much later than it was leased its call was sent, where that is still to be told."""
        self._abandoned: dict[str, set[str]] = {}
        self._due_s: dict[str, float] = {}
        """Monotonic: when an upstream is to be looked after next."""
        self._renewed_s: dict[str, float] = {}
        self._is_due = asyncio.Event()

    def new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"

    def hold(self, upstream: str, lease_id: str) -> None:
        """Renew a lease from now on."""
        held = self._leases.setdefault(upstream, {})
        if not held:
            self._renewed_s[upstream] = self._monotonic()
            self._look_after(upstream, self._lease_s / 4)
        held[lease_id] = 0

    def let_go(self, upstream: str, lease_id: str) -> None:
        self._leases.get(upstream, {}).pop(lease_id, None)

    def note_late(self, upstream: str, lease_id: str, later_us: int) -> None:
        """Tell it with the next sign of life."""
        held = self._leases.get(upstream, {})
        if lease_id in held:
            held[lease_id] = later_us

    def abandon(self, upstream: str, lease_id: str) -> None:
        """Give up, as soon as Redis can be asked, what somebody who was cut off may hold."""
        self._abandoned.setdefault(upstream, set()).add(lease_id)
        self._look_after(upstream, 0)

    def enter(self, upstream: str, lease_id: str) -> Place:
        """Somebody begins to wait, and is to be let out with `leave`."""
        place = Place(upstream, lease_id, asyncio.get_running_loop().create_future())
        places = self._places.setdefault(upstream, {})
        if not places:
            self._look_after(upstream, 0)
        places[lease_id] = place
        return place

    def leave(self, place: Place) -> None:
        del self._places[place.upstream][place.id]

    async def sleep(self, place: Place, leaving: "asyncio.Future[None]", seconds: float) -> Wake:
        """Until the place is told something, the client has left, or the time is over."""
        loop = asyncio.get_running_loop()
        late = loop.call_later(seconds, place.wake, Wake.LATE)
        leaving.add_done_callback(place.note_left)
        try:
            return await place.woken  # and not asyncio.wait, which keeps 1.5 KB for each who waits
        finally:
            late.cancel()
            leaving.remove_done_callback(place.note_left)
            place.woken = loop.create_future()

    async def listen(self) -> None:
        """Wake who is given something; runs for ever, through every loss of the connection."""
        is_told = False
        while True:
            try:
                async for lease_id in self._messages():
                    is_told = False
                    if lease_id is None:
                        self._look_after_all()
                    else:
                        self._wake_anywhere(lease_id)
            except (GatewayError, UnicodeDecodeError) as error:
                if not is_told:
                    _LOG.warning("grants_not_heard", detail=str(error), remedy="asked once a second instead")
                is_told = True
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def tend(self) -> None:
        """Give signs of life, and ask how the waiting requests stand; runs for ever."""
        while True:
            now_s = self._monotonic()
            pause_s = max(0.0, min(self._due_s.values(), default=now_s + _IDLE_S) - now_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_due.wait()
            self._is_due.clear()
            now_s = self._monotonic()
            due = [upstream for upstream, at_s in self._due_s.items() if at_s <= now_s]
            for upstream in due:
                del self._due_s[upstream]
            await asyncio.gather(*(self._turn(upstream) for upstream in due))

    async def close(self) -> None:
        """Give up what is still held when the program ends."""
        for upstream in self._abandoned:
            with suppress(GatewayError):
                await self._give_up_abandoned(upstream)

    async def _messages(self) -> AsyncGenerator[str | None]:
        """Ids, after None for the beginning. Raises: GatewayError REDIS_AWAY."""
        async with self._redis.pubsub() as messages:
            with redis_faults():
                await messages.subscribe(self.channel)
                while True:
                    message = await messages.get_message(timeout=30.0)
                    if message:
                        yield str(message["data"]) if message["type"] == "message" else None

    async def _turn(self, upstream: str) -> None:
        """One round for an upstream. Whatever fails is done again in a second."""
        next_s = _TURN_S
        try:
            await self._give_up_abandoned(upstream)
            next_s = await self._ask(upstream)
        except GatewayError as error:
            _LOG.debug("pool_turn_failed", upstream=upstream, detail=error.detail)
        if self._places.get(upstream) or self._abandoned.get(upstream):
            self._look_after(upstream, next_s)
        elif self._leases.get(upstream):
            self._look_after(upstream, self._lease_s / 4)

    async def _ask(self, upstream: str) -> float:
        """A sign of life. Returns: seconds until the next is due. Raises: GatewayError REDIS_AWAY."""
        now_s = self._monotonic()
        is_renewing = now_s - self._renewed_s.get(upstream, 0) >= self._lease_s / 4 - _TURN_S
        held = self._leases.get(upstream, {}) if is_renewing else {}
        leases = tuple(f"{lease_id}|{later_us}" if later_us else lease_id for lease_id, later_us in held.items())
        places = list(self._places.get(upstream, {}).values())
        next_s = _TURN_S
        batches = [places[at : at + _IDS_A_TURN] for at in range(0, len(places), _IDS_A_TURN)]
        for batch in batches or [places]:
            args: list[Value] = [self.channel, self.alive_us, round(self._lease_s * 1e6), len(leases), *leases]
            answer = await self._scripts.run("turn", upstream, [*args, *(place.id for place in batch)])
            if answer.verdict == "unknown":
                await self._roster.restore(upstream)
                for place in batch:
                    place.wake(Wake.GONE)
                return _TURN_S
            self._tell(upstream, batch, answer)
            if answer.is_keeper and answer.next_us >= 0:
                next_s = min(next_s, answer.next_us / 1e6 + _SOON_S)
            leases = ()
        if is_renewing:
            self._renewed_s[upstream] = now_s
        return next_s

    def _tell(self, upstream: str, batch: list[Place], answer: Answer) -> None:
        places = self._places[upstream] if batch else {}
        for lease_id in answer.given:
            if lease_id in places:
                places[lease_id].wake(Wake.GIVEN)
        for lease_id in answer.gone:
            if lease_id in places:
                places[lease_id].wake(Wake.GONE)
        if answer.verdict == "down":
            for place in batch:
                place.wake(Wake.DOWN)

    async def _give_up_abandoned(self, upstream: str) -> None:
        abandoned = self._abandoned.get(upstream, set())
        for lease_id in list(abandoned)[:_ABANDONED_A_TURN]:
            await self._scripts.run("leave", upstream, [lease_id])
            abandoned.discard(lease_id)

    def _wake_anywhere(self, lease_id: str) -> None:
        for places in self._places.values():
            if lease_id in places:
                places[lease_id].wake(Wake.GIVEN)

    def _look_after_all(self) -> None:
        for upstream, places in self._places.items():
            if places:
                self._look_after(upstream, 0)

    def _look_after(self, upstream: str, in_s: float) -> None:
        at_s = self._monotonic() + in_s
        if at_s < self._due_s.get(upstream, float("inf")):
            self._due_s[upstream] = at_s
            self._is_due.set()
