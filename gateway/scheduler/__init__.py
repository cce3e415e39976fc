"""The scheduler: leases scarce upstream capacity across all processes (see scripts.py for the Redis keys).

Invariants: each call needs a lease. A lease is granted only within its account's rate limits, concurrency and
health. Leases of a dead process expire. The end of a cooldown only moves later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from gateway.domain.accounts import ProviderKey, cooldown_for
from gateway.domain.errors import ERROR_SPECS, CapacityHint, ErrorCode, GatewayError, Outcome
from gateway.redis import PREFIX, Value
from gateway.scheduler.leases import NOT_SENT, CallReport, Lease, LeaseRequest, NoCapacity, Priority, RetryKind
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue, WakeReason
from gateway.scheduler.scripts import LeaseReply, Scripts
from gateway.scheduler.status import PoolStatus, read_status

__all__ = [
    "NOT_SENT",
    "CallReport",
    "Lease",
    "LeaseRequest",
    "NoCapacity",
    "Priority",
    "RetryKind",
    "Scheduler",
    "channel_of",
]

_LOG = structlog.get_logger("imagegate.pool")
_UNKNOWN_KEY_WAIT_S: Final = 5.0
"""Time a process waits for a configuration that explains leased keys whose secrets it lacks."""
_UNKNOWN_KEY_PAUSE_S: Final = 0.25
_LATE_S: Final = 0.25
"""A call sent this much later than it was leased counts against its account's minute from then on."""


class Scheduler:
    """Leases the accounts of every upstream."""

    def __init__(
        self,
        scripts: Scripts,
        roster: AccountRegistry,
        queue: Queue,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._scripts = scripts
        self._roster = roster
        self._queue = queue
        self._clock = clock
        self._monotonic = monotonic
        self._lease_us = round(lease_s * 1e6)

    async def lease(self, lease_request: LeaseRequest, left: Callable[[], Awaitable[object]]) -> Lease | NoCapacity:
        """Leases a key for a call, immediately or when its turn in the queue comes.

        `left` returns when the client has disconnected.
        Raises: GatewayError CLIENT_DISCONNECTED while waiting, REDIS_UNAVAILABLE.
        Redis: one round trip, lua/lease.lua; a call that waits takes two more.
        """
        asked_s = self._monotonic()
        ends_s = asked_s + lease_request.patience_s
        unknown_keys: tuple[str, ...] = ()
        while True:
            found = await self._lease(
                replace(lease_request, avoided=lease_request.avoided + unknown_keys), ends_s, left
            )
            lease_request = replace(lease_request, asked=found.asked)
            if isinstance(found, NoCapacity):
                if not unknown_keys or self._monotonic() > asked_s + _UNKNOWN_KEY_WAIT_S:
                    return found
                await asyncio.sleep(_UNKNOWN_KEY_PAUSE_S)
                unknown_keys = ()
                continue
            key = await self._resolve_key(lease_request.upstream, found)
            if key:
                self._queue.track(lease_request.upstream, found.id)
                return Lease(found.id, key, lease_request.model, lease_request.images, found.taken_s, found.asked)
            await self._cancel(lease_request.upstream, found.id)
            unknown_keys = (*unknown_keys, f"{found.answer.account}/{found.answer.key}")

    async def release(self, lease: Lease, report: CallReport) -> None:
        """Releases a lease and reports its call, whatever the outcome.

        Raises: GatewayError REDIS_UNAVAILABLE; the lease then expires.
        Redis: one round trip, lua/release.lua.
        """
        self._queue.untrack(lease.key.upstream, lease.id)
        said = msgspec.json.encode(self._release_payload(lease, report)).decode()
        await self._scripts.run("release", lease.key.upstream, [lease.id, said])

    def note_sent(self, lease: Lease, sent_s: float) -> None:
        """Records when a call was sent; a late one counts against its account's minute from then on."""
        later_us = _later_us(lease, sent_s)
        if later_us:
            self._queue.note_late(lease.key.upstream, lease.id, later_us)

    async def has_capacity(self) -> bool:
        """Returns True if some upstream can be sent a request now; if not, `snapshot` has the reasons.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per upstream until one has capacity, lua/has_capacity.lua: O(1).
        """
        for upstream in self._roster.upstreams:
            if (await self._scripts.run("has_capacity", upstream, [])).decision == "open":
                return True
        return False

    async def snapshot(self) -> list[PoolStatus]:
        """Returns the status of every upstream, account and key.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per upstream, lua/snapshot.lua: O(accounts).
        """
        return [
            read_status(upstream, await self._scripts.raw("snapshot", upstream, []))
            for upstream in self._roster.upstreams
        ]

    async def _lease(
        self, lease_request: LeaseRequest, ends_s: float, left: Callable[[], Awaitable[object]]
    ) -> "_UnresolvedLease | NoCapacity":
        """Requests a lease, waits if necessary, and retries if Redis lost the waiting request."""
        asked = lease_request.asked
        while True:
            lease_id, taken_s = self._queue.new_id(), self._monotonic()
            answer = await self._ask(lease_request, lease_id, max(0.0, ends_s - taken_s), asked)
            match answer.decision:
                case "leased":
                    return _UnresolvedLease(lease_id, answer, taken_s, answer.asked_us)
                case "wait":
                    asked = answer.asked_us
                    taken = await self._wait(lease_request.upstream, lease_id, ends_s, left, asked)
                    if taken is not None:
                        return taken
                case "busy":
                    return NoCapacity(answer.wait_us / 1e6, is_busy=True, asked=asked)
                case "down":
                    return NoCapacity(answer.wait_us / 1e6 or None, is_busy=False, asked=asked)
                case _:
                    return NoCapacity(None, is_busy=False, asked=asked)

    async def _ask(self, lease_request: LeaseRequest, lease_id: str, patience_s: float, asked: str) -> LeaseReply:
        args: list[Value] = [
            lease_id,
            self._queue.channel,
            lease_request.tenant,
            lease_request.weight,
            lease_request.images,
            lease_request.model,
        ]
        args += [round(patience_s * 1e6), asked, lease_request.repeat.value, self._lease_us, self._queue.alive_us]
        args += [lease_request.priority.value, *lease_request.avoided]
        try:
            answer = await self._scripts.run("lease", lease_request.upstream, args)
            if answer.decision == "unknown":
                await self._roster.restore(lease_request.upstream)
                answer = await self._scripts.run("lease", lease_request.upstream, args)
        except BaseException:  # cancelled, or no reply: the script may have run, or may yet
            self._queue.cancel_later(lease_request.upstream, lease_id)
            raise
        return answer

    async def _wait(
        self, upstream: str, lease_id: str, ends_s: float, left: Callable[[], Awaitable[object]], asked: str
    ) -> "_UnresolvedLease | None":
        """Waits for a lease; None if the scheduler must be asked again.

        Raises: GatewayError CLIENT_DISCONNECTED, REDIS_UNAVAILABLE.
        """
        leaving, waiter = asyncio.ensure_future(left()), self._queue.join(upstream, lease_id)
        try:
            while True:
                wake = await self._queue.sleep(waiter, leaving, max(0.0, ends_s - self._monotonic()))
                if wake is not WakeReason.ASSIGNED:
                    break
                taken_s = self._monotonic()
                answer = await self._scripts.run("claim", upstream, [lease_id, self._lease_us])
                if answer.decision == "leased":
                    return _UnresolvedLease(lease_id, answer, taken_s, asked)
                if answer.decision != "wait":
                    return None
        except BaseException:
            self._queue.cancel_later(upstream, lease_id)
            raise
        finally:
            leaving.cancel()
            self._queue.leave(waiter)
        if wake is WakeReason.FORGOTTEN:
            return None
        await self._cancel(upstream, lease_id)
        if wake is WakeReason.DISCONNECTED:
            raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
        return None

    async def _cancel(self, upstream: str, lease_id: str) -> None:
        """Cancels a wait or a lease, now or with the next heartbeat."""
        try:
            await self._scripts.run("cancel", upstream, [lease_id])
        except BaseException as error:
            self._queue.cancel_later(upstream, lease_id)
            if not isinstance(error, GatewayError):
                raise

    async def _resolve_key(self, upstream: str, taken: "_UnresolvedLease") -> ProviderKey | None:
        """Returns the key of a lease; loads recently added keys."""
        answer = taken.answer
        named = (upstream, answer.account, answer.key, answer.fingerprint)
        key = self._roster.find(*named)
        if key is None:
            try:
                await self._roster.refresh(upstream)
            except BaseException:
                self._queue.cancel_later(upstream, taken.id)
                raise
            key = self._roster.find(*named)
        if key is None:
            _LOG.warning("pool_key_missing", upstream=upstream, account=answer.account, key=answer.key)
        return key

    def _release_payload(self, lease: Lease, report: CallReport) -> dict[str, object]:
        """Builds the payload of lua/release.lua."""
        key = lease.key
        said: dict[str, object] = {
            "account": key.account,
            "key": key.name,
            "fingerprint": key.secret.fingerprint,
            "model": lease.model,
        }
        later_us = _later_us(lease, report.sent_s)
        if later_us:
            said["later_us"] = later_us
        if report.error_code is None:
            return said | {
                "is_success": True,
                "breaker": "well",
                "images": report.images,
                "usd_micros": report.usd_micros,
            }
        blamed = self._error_report(report.error_code, report)
        if report.is_cut_short:
            blamed.pop("breaker", None)
        return said | blamed

    def _error_report(self, error_code: ErrorCode, report: CallReport) -> dict[str, object]:
        row = ERROR_SPECS[error_code]
        said: dict[str, object] = {
            "error_code": error_code.value,
            "is_unauthorized": error_code is ErrorCode.KEY_INVALID,
        }
        if row.outcome is Outcome.NOT_SENT:
            said["is_unsent"] = True
        if row.trips_breaker:
            said["breaker"] = "ill"
        elif (
            row.outcome is Outcome.REFUSED and not row.is_bare
        ):  # an edge error says nothing about the server behind it
            said["breaker"] = "well"
        if row.lowers is not CapacityHint.NOTHING:
            said["lowers"] = row.lowers.value
        rest = cooldown_for(error_code, self._clock(), asked_s=report.pause_s, cooldown_s=report.cooldown_s)
        if rest:
            said |= {
                "scope": rest.scope.value,
                "state": rest.state.value,
                "seconds": rest.seconds,
                "seconds_max": rest.seconds_max,
                "busy": row.status == 429,
            }
        return said


@dataclass(frozen=True, slots=True)
class _UnresolvedLease:
    """A lease whose key is not resolved yet."""

    id: str
    answer: LeaseReply
    taken_s: float
    asked: str


def _later_us(lease: Lease, sent_s: float | None) -> int:
    """Returns by how many microseconds a call was sent after its lease; 0 if negligible."""
    late_s = 0.0 if sent_s is None else sent_s - lease.taken_s
    return round(late_s * 1e6) if late_s > _LATE_S else 0


def channel_of(process: str, prefix: str = PREFIX) -> str:
    """Returns the channel on which a process is notified of leases for its waiting requests."""
    return f"{prefix}:pool:{process}"
