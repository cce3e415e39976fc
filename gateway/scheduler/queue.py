"""The waiting requests and leases of one process: wake-ups, and the heartbeats that keep both alive.

A message on the process's own channel wakes a waiting request. The heartbeat, once a second, covers lost messages.
One process per upstream, its keeper, also asks as soon as capacity becomes free.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, TypeVar

import structlog

from gateway.domain.errors import GatewayError
from gateway.redis import Client, Value, execute, subscribe
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.scripts import Reply, Scripts, record

_LOG = structlog.get_logger("imagegate.pool")
_T = TypeVar("_T")
_HEARTBEAT_INTERVAL_S: Final = 1.0
_HEARTBEAT_TIMEOUT_S: Final = 6.0
"""A process that misses its heartbeat for this long loses its waiters in the queue."""
_SOON_S: Final = 0.002
"""Delay after capacity becomes free: the server's clock must have passed that moment."""
_LISTEN_PAUSE_S: Final = 0.5
_CANCELS_PER_SCRIPT: Final = 16
_IDS_PER_SCRIPT: Final = 100
"""Limit on waiting requests, or leases, per script."""


class WakeReason(Enum):
    """The reason why a wait ended."""

    ASSIGNED = "assigned"
    """A lease is ready to claim."""
    FORGOTTEN = "forgotten"
    """Redis does not know the waiting request."""
    UNAVAILABLE = "down"
    """The upstream cannot serve now."""
    TIMED_OUT = "timed_out"
    DISCONNECTED = "disconnected"


Waiter = asyncio.Future[WakeReason]


@dataclass(slots=True)
class UpstreamQueue:
    """Waiting requests and leases of this process on one upstream."""

    due_s: float
    """Monotonic; time of the next heartbeat."""
    waiters: dict[str, Waiter] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    """Leases to renew; by ID: microseconds from lease to send, if still to be reported."""
    to_cancel: dict[str, None] = field(default_factory=dict)
    """IDs to cancel at the next heartbeat, in order."""
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
        members: AccountRegistry,
        channel: str,
        process: str,
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._members = members
        self.channel = channel
        self.process = process
        self.alive_us = round(_HEARTBEAT_TIMEOUT_S * 1e6)
        self._monotonic = monotonic
        self._lease_s = lease_s
        self._idle_s = lease_s / 4
        """Interval of heartbeats that only renew leases."""
        self.parts: defaultdict[str, UpstreamQueue] = defaultdict(lambda: UpstreamQueue(monotonic() + self._idle_s))
        self._is_due = asyncio.Event()

    def cancel_later(self, upstream: str, lease_id: str) -> None:
        """Cancels, at the next heartbeat, whatever an interrupted request may hold."""
        part = self.parts[upstream]
        part.to_cancel[lease_id] = None
        self._schedule(part, 0)

    def join(self, upstream: str, lease_id: str) -> None:
        """Adds a waiting request; remove it from `waiters` when it no longer waits."""
        part = self.parts[upstream]
        if not part.waiters:
            self._schedule(part, 0)
        part.waiters[lease_id] = asyncio.get_running_loop().create_future()

    async def watch(self, upstream: str, name: str, lease_id: str, seconds: float) -> None:
        """Lets the place of a waiting request be asked for by name, if Redis accepts it."""
        call = self._redis.set(self._watched(upstream, name), lease_id, px=max(1, round(seconds * 1000)))
        with suppress(GatewayError):
            await execute(self._redis, call, object)

    async def watched(self, upstream: str, name: str) -> str:
        """Returns the lease ID that a request waits for, "" for none. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await execute(self._redis, self._redis.get(self._watched(upstream, name)), str) or ""

    def _watched(self, upstream: str, name: str) -> str:
        return record(upstream, f"watched:{name}", self._redis.prefix)

    async def sleep(
        self, upstream: str, lease_id: str, leaving: "asyncio.Future[object]", seconds: float
    ) -> WakeReason:
        """Waits until a lease is assigned, the client disconnects, or the deadline passes."""
        loop, waiters = asyncio.get_running_loop(), self.parts[upstream].waiters
        waiter = waiters[lease_id]
        late = loop.call_later(seconds, _wake, waiter, WakeReason.TIMED_OUT)
        disconnect = partial(_wake_disconnected, waiter)
        leaving.add_done_callback(disconnect)
        try:
            return await waiter  # asyncio.wait would hold 1.5 KB per waiting request
        finally:
            late.cancel()
            leaving.remove_done_callback(disconnect)
            waiters[lease_id] = loop.create_future()

    async def listen(self) -> None:
        """Wakes requests when messages arrive; runs until cancelled and reconnects after failures.

        A message is a lease ID. None stands for a new subscription: leases are renewed before they expire. "" asks for
        a heartbeat at an upstream that has more free capacity than one script grants.
        """
        is_reported = False
        while True:
            try:
                async for lease_id in subscribe(self._redis, self.channel):
                    is_reported = False
                    for part in self.parts.values():
                        if lease_id:
                            _wake(part.waiters.get(lease_id), WakeReason.ASSIGNED)
                        elif part.waiters or (lease_id is None and part.leases):
                            part.must_renew_all |= lease_id is None
                            self._schedule(part, 0)
            except (GatewayError, UnicodeDecodeError) as error:
                if not is_reported:
                    _LOG.warning("queue_subscription_lost", detail=str(error), hint="polling once a second instead")
                is_reported = True
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def run_heartbeat(self) -> None:
        """Sends heartbeats and reads the state of waiting requests; runs until cancelled."""
        while True:
            next_s = min((part.due_s for part in self.parts.values()), default=math.inf) - self._monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(next_s, self._idle_s))):
                    await self._is_due.wait()
            self._is_due.clear()
            now_s = self._monotonic()
            due = [upstream for upstream, part in self.parts.items() if part.due_s <= now_s]
            await asyncio.gather(*(self._send_heartbeat(upstream) for upstream in due))

    async def close(self) -> None:
        """Cancels everything at shutdown; what Redis does not accept expires."""
        for upstream in list(self.parts):
            with suppress(GatewayError):
                await self._cancel_pending(upstream)

    async def _send_heartbeat(self, upstream: str) -> None:
        """Sends one heartbeat for an upstream. Every failure, bugs included, is retried within a second."""
        part, next_s = self.parts[upstream], _HEARTBEAT_INTERVAL_S
        part.due_s, must_renew, part.must_renew_all = math.inf, part.must_renew_all, True
        try:
            await self._cancel_pending(upstream)
            next_s = await self._ask(upstream, is_renewing=must_renew)
            part.must_renew_all = False
        except GatewayError as error:
            _LOG.debug("queue_heartbeat_failed", upstream=upstream, detail=error.detail)
        finally:
            is_soon = part.waiters or part.to_cancel or part.must_renew_all
            self._schedule(part, next_s if is_soon else self._idle_s)

    async def _ask(self, upstream: str, *, is_renewing: bool) -> float:
        """Sends a heartbeat. Returns: seconds until the next. Raises: GatewayError REDIS_UNAVAILABLE."""
        part, now_s, next_s = self.parts[upstream], self._monotonic(), _HEARTBEAT_INTERVAL_S
        is_renewing = is_renewing or now_s - part.renewed_s >= self._idle_s - _HEARTBEAT_INTERVAL_S
        held = part.leases if is_renewing else {}
        leases = [f"{lease_id}|{later_us}" if later_us else lease_id for lease_id, later_us in held.items()]
        for some in _slices(leases):
            await self._heartbeat(upstream, some, [])
        for batch in _slices(list(part.waiters)):
            reply = await self._heartbeat(upstream, [], batch)
            if reply.decision == "unknown":
                await self._members.restore(upstream)
                reply = Reply(decision="unknown", forgotten=tuple(batch))
            for reason, ids in (
                (WakeReason.ASSIGNED, reply.assigned),
                (WakeReason.FORGOTTEN, reply.forgotten),
                (WakeReason.UNAVAILABLE, reply.down),
            ):
                for lease_id in ids:
                    _wake(part.waiters.get(lease_id), reason)
            if reply.is_keeper and reply.next_us >= 0:
                next_s = min(next_s, reply.next_us / 1e6 + _SOON_S)
        if is_renewing:
            part.renewed_s = now_s
        return next_s

    async def _heartbeat(self, upstream: str, leases: list[str], waiting: list[str]) -> Reply:
        args: list[Value] = [self.channel, self.alive_us, round(self._lease_s * 1e6), len(leases), *leases, *waiting]
        return await self._scripts.run("heartbeat", upstream, args)

    async def _cancel_pending(self, upstream: str) -> None:
        """Cancels pending IDs. Raises: GatewayError REDIS_UNAVAILABLE; the next heartbeat retries."""
        to_cancel = self.parts[upstream].to_cancel
        for some in _slices(list(to_cancel), _CANCELS_PER_SCRIPT):
            await self._scripts.run("cancel", upstream, [*some])
            for lease_id in some:
                to_cancel.pop(lease_id, None)

    def _schedule(self, part: UpstreamQueue, in_s: float) -> None:
        at_s = self._monotonic() + in_s
        if at_s < part.due_s:
            part.due_s = at_s
            self._is_due.set()


def _wake(waiter: Waiter | None, reason: WakeReason) -> None:
    """Ends a wait; the first reason counts."""
    if waiter and not waiter.done():
        waiter.set_result(reason)


def _wake_disconnected(waiter: Waiter, _: object) -> None:
    _wake(waiter, WakeReason.DISCONNECTED)


def _slices(items: list[_T], size: int = _IDS_PER_SCRIPT) -> list[list[_T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
