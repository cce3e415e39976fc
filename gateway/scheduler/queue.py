"""The waiting requests of one process: wake-ups and the heartbeats that keep their waiters in the queue.

A message on the process's own channel wakes a waiting request. The heartbeat, once a second, covers lost messages.
One process per upstream, its keeper, also asks as soon as capacity becomes free.
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
_HEARTBEAT_INTERVAL_S: Final = 1.0
_HEARTBEAT_TIMEOUT_S: Final = 6.0
"""A process that misses its heartbeat for this long loses its waiters in the queue."""
_SOON_S: Final = 0.002
"""Delay after capacity becomes free: the server's clock must have passed that moment."""
_IDLE_S: Final = 60.0
_LISTEN_PAUSE_S: Final = 0.5
_CANCELS_PER_SCRIPT: Final = 16
_IDS_PER_SCRIPT: Final = 100
"""Limit on waiting requests, or leases, per script."""


class WakeReason(Enum):
    """The reason why a wait ended."""

    ASSIGNED = "given"
    """A lease is ready to claim."""
    FORGOTTEN = "gone"
    """Redis does not know the waiting request."""
    UNAVAILABLE = "down"
    """The upstream cannot serve now."""
    TIMED_OUT = "late"
    DISCONNECTED = "left"


@dataclass(slots=True, eq=False)
class Waiter:
    """A waiting request of this process."""

    upstream: str
    id: str
    woken: "asyncio.Future[WakeReason]"

    def wake(self, wake: WakeReason) -> None:
        """Ends the wait; the first reason counts."""
        if not self.woken.done():
            self.woken.set_result(wake)

    def note_disconnect(self, _: object) -> None:
        """Ends the wait because the client disconnected."""
        self.wake(WakeReason.DISCONNECTED)


@dataclass(slots=True)
class _UpstreamQueue:
    """Waiting requests and leases of this process on one upstream."""

    waiters: dict[str, Waiter] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    """By ID: microseconds from lease to send, if still to be reported."""
    to_cancel: dict[str, None] = field(default_factory=dict)
    """IDs to cancel at the next heartbeat, in order."""
    due_s: float = math.inf
    """Monotonic; time of the next heartbeat."""
    renewed_s: float = 0.0
    """Monotonic; time of the last renewal of all leases."""
    must_renew_all: bool = False
    """A heartbeat failed: the next successful one renews all leases."""


class Queue:
    """All waiting requests and leases of this process."""

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
        self.alive_us = round(_HEARTBEAT_TIMEOUT_S * 1e6)
        self._process = process
        self._monotonic = monotonic
        self._lease_s = lease_s
        self._numbers = itertools.count()
        self._parts: defaultdict[str, _UpstreamQueue] = defaultdict(_UpstreamQueue)
        self._is_due = asyncio.Event()

    def new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"

    def track(self, upstream: str, lease_id: str) -> None:
        """Renews a lease from now on."""
        part = self._parts[upstream]
        if not part.leases:
            part.renewed_s = self._monotonic()
            self._schedule(part, self._lease_s / 4)
        part.leases[lease_id] = 0

    def untrack(self, upstream: str, lease_id: str) -> None:
        self._parts[upstream].leases.pop(lease_id, None)

    def note_late(self, upstream: str, lease_id: str, later_us: int) -> None:
        """Reports a late send with the next heartbeat."""
        leases = self._parts[upstream].leases
        if lease_id in leases:
            leases[lease_id] = later_us

    def cancel_later(self, upstream: str, lease_id: str) -> None:
        """Cancels, at the next heartbeat, whatever an interrupted request may hold."""
        part = self._parts[upstream]
        part.to_cancel[lease_id] = None
        self._schedule(part, 0)

    def join(self, upstream: str, lease_id: str) -> Waiter:
        """Adds a waiting request; remove it with `leave`."""
        waiter = Waiter(upstream, lease_id, asyncio.get_running_loop().create_future())
        part = self._parts[upstream]
        if not part.waiters:
            self._schedule(part, 0)
        part.waiters[lease_id] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        del self._parts[waiter.upstream].waiters[waiter.id]

    async def sleep(self, waiter: Waiter, leaving: "asyncio.Future[object]", seconds: float) -> WakeReason:
        """Waits until a lease is assigned, the client disconnects, or the deadline passes."""
        loop = asyncio.get_running_loop()
        late = loop.call_later(seconds, waiter.wake, WakeReason.TIMED_OUT)
        leaving.add_done_callback(waiter.note_disconnect)
        try:
            return await waiter.woken  # asyncio.wait would hold 1.5 KB per waiting request
        finally:
            late.cancel()
            leaving.remove_done_callback(waiter.note_disconnect)
            waiter.woken = loop.create_future()

    async def listen(self) -> None:
        """Wakes requests when messages arrive; runs until cancelled and reconnects after failures."""
        is_reported = False
        while True:
            try:
                async for lease_id in self._messages():
                    is_reported = False
                    if lease_id is None:
                        self._schedule_all()
                    elif not lease_id:
                        self._heartbeat_all_now()
                    else:
                        self._wake_anywhere(lease_id)
            except (GatewayError, UnicodeDecodeError) as error:
                if not is_reported:
                    _LOG.warning("queue_subscription_lost", detail=str(error), remedy="polling once a second instead")
                is_reported = True
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def run_heartbeat(self) -> None:
        """Sends heartbeats and reads the state of waiting requests; runs until cancelled."""
        while True:
            now_s = self._monotonic()
            next_s = min((part.due_s for part in self._parts.values()), default=math.inf)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(next_s - now_s, _IDLE_S))):
                    await self._is_due.wait()
            self._is_due.clear()
            now_s = self._monotonic()
            due = [upstream for upstream, part in self._parts.items() if part.due_s <= now_s]
            await asyncio.gather(*(self._send_heartbeat(upstream) for upstream in due))

    async def close(self) -> None:
        """Cancels everything at shutdown; what Redis does not accept expires."""
        for upstream in list(self._parts):
            with suppress(GatewayError):
                await self._cancel_pending(upstream)

    async def _messages(self) -> AsyncGenerator[str | None]:
        """Yields IDs, after None for each new subscription; "" requests a heartbeat.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        async with self._redis.pubsub() as messages:
            with translate_redis_errors():
                await messages.subscribe(self.channel)
                while True:
                    message = await messages.get_message(timeout=30.0)
                    if message:
                        yield str(message["data"]) if message["type"] == "message" else None

    async def _send_heartbeat(self, upstream: str) -> None:
        """Sends one heartbeat for an upstream. Every failure, bugs included, is retried within a second."""
        part, next_s = self._parts[upstream], _HEARTBEAT_INTERVAL_S
        part.due_s, must_renew, part.must_renew_all = math.inf, part.must_renew_all, True
        try:
            await self._cancel_pending(upstream)
            next_s = await self._ask(upstream, is_renewing=must_renew)
            part.must_renew_all = False
        except GatewayError as error:
            _LOG.debug("queue_heartbeat_failed", upstream=upstream, detail=error.detail)
        finally:
            if part.waiters or part.to_cancel or part.must_renew_all:
                self._schedule(part, next_s)
            elif part.leases:
                self._schedule(part, self._lease_s / 4)

    async def _ask(self, upstream: str, *, is_renewing: bool) -> float:
        """Sends a heartbeat. Returns: seconds until the next. Raises: GatewayError REDIS_UNAVAILABLE."""
        part, now_s, next_s = self._parts[upstream], self._monotonic(), _HEARTBEAT_INTERVAL_S
        is_renewing = is_renewing or now_s - part.renewed_s >= self._lease_s / 4 - _HEARTBEAT_INTERVAL_S
        held = part.leases if is_renewing else {}
        leases = [f"{lease_id}|{later_us}" if later_us else lease_id for lease_id, later_us in held.items()]
        for some in _slices(leases):
            await self._heartbeat(upstream, some, [])
        for batch in _slices(list(part.waiters.values())) or ([] if leases else [[]]):
            answer = await self._heartbeat(upstream, [], batch)
            if answer.decision == "unknown":
                await self._roster.restore(upstream)
                for waiter in batch:
                    waiter.wake(WakeReason.FORGOTTEN)
                return _HEARTBEAT_INTERVAL_S
            self._wake_waiters(part, answer)
            if answer.is_keeper and answer.next_us >= 0:
                next_s = min(next_s, answer.next_us / 1e6 + _SOON_S)
        if is_renewing:
            part.renewed_s = now_s
        return next_s

    async def _heartbeat(self, upstream: str, leases: list[str], batch: list[Waiter]) -> LeaseReply:
        args: list[Value] = [self.channel, self.alive_us, round(self._lease_s * 1e6), len(leases), *leases]
        return await self._scripts.run("heartbeat", upstream, [*args, *(waiter.id for waiter in batch)])

    def _wake_waiters(self, part: _UpstreamQueue, answer: LeaseReply) -> None:
        for wake, ids in (
            (WakeReason.ASSIGNED, answer.given),
            (WakeReason.FORGOTTEN, answer.gone),
            (WakeReason.UNAVAILABLE, answer.down),
        ):
            for lease_id in ids:
                if lease_id in part.waiters:
                    part.waiters[lease_id].wake(wake)

    async def _cancel_pending(self, upstream: str) -> None:
        """Cancels pending IDs. Raises: GatewayError REDIS_UNAVAILABLE; the next heartbeat retries."""
        to_cancel = self._parts[upstream].to_cancel
        for some in _slices(list(to_cancel), _CANCELS_PER_SCRIPT):
            await self._scripts.run("cancel", upstream, [*some])
            for lease_id in some:
                to_cancel.pop(lease_id, None)

    def _wake_anywhere(self, lease_id: str) -> None:
        for part in self._parts.values():
            if lease_id in part.waiters:
                part.waiters[lease_id].wake(WakeReason.ASSIGNED)

    def _heartbeat_all_now(self) -> None:
        """Schedules a heartbeat at an upstream that has more free capacity than one script grants."""
        for part in self._parts.values():
            if part.waiters:
                self._schedule(part, 0)

    def _schedule_all(self) -> None:
        """Schedules all heartbeats after Redis (re)connects, so that leases are renewed before they expire."""
        for part in self._parts.values():
            if part.waiters or part.leases:
                part.must_renew_all = True
                self._schedule(part, 0)

    def _schedule(self, part: _UpstreamQueue, in_s: float) -> None:
        at_s = self._monotonic() + in_s
        if at_s < part.due_s:
            part.due_s = at_s
            self._is_due.set()


def _slices(items: list[_T], size: int = _IDS_PER_SCRIPT) -> list[list[_T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
