"""The scheduler: leases scarce upstream capacity across all processes (see scripts.py for the Redis keys).

Invariants: each call needs a lease. A lease is granted only within its account's rate limits, concurrency and
health. Leases of a dead process expire. The end of a cooldown only moves later.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from gateway.domain.accounts import ProviderKey, cooldown_for
from gateway.domain.errors import ERROR_SPECS, CapacityHint, ErrorCode, GatewayError, Outcome
from gateway.redis import PREFIX, Value
from gateway.scheduler.leases import NOT_SENT, CallReport, Lease, LeaseRequest, NoCapacity, Place, Priority, RetryKind
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue, WakeReason
from gateway.scheduler.scripts import Reply, Scripts
from gateway.scheduler.status import AccountStatus, PoolStatus

__all__ = [
    "NOT_SENT",
    "CallReport",
    "Lease",
    "LeaseRequest",
    "NoCapacity",
    "Place",
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
        members: AccountRegistry,
        queue: Queue,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._scripts = scripts
        self._members = members
        self._queue = queue
        self._clock = clock
        self._monotonic = monotonic
        self._lease_us = round(lease_s * 1e6)
        self._numbers = itertools.count()

    async def lease(self, request: LeaseRequest, left: Callable[[], Awaitable[object]]) -> Lease | NoCapacity:
        """Leases a key for a call, immediately or when its turn in the queue comes.

        `left` returns when the client has disconnected.
        Raises: GatewayError CLIENT_DISCONNECTED while waiting, REDIS_UNAVAILABLE.
        Redis: one round trip, lua/lease.lua; a call that waits takes two more.
        """
        upstream, asked, asked_s = request.upstream, request.asked, self._monotonic()
        ends_s = asked_s + request.patience_s
        unknown_keys: tuple[str, ...] = ()
        while True:
            lease_id, taken_s = f"{self._queue.process}-{next(self._numbers)}", self._monotonic()
            patience_us = round(max(0.0, ends_s - taken_s) * 1e6)
            reply = await self._ask(request, lease_id, patience_us, asked, unknown_keys)
            asked = reply.requested_us or asked
            if reply.decision == "wait":
                taken_s, claimed = await self._wait(request, lease_id, ends_s, left)
                if claimed is None:
                    continue
                reply = claimed
            if reply.decision != "leased":
                if not unknown_keys or self._monotonic() > asked_s + _UNKNOWN_KEY_WAIT_S:
                    wait_s = reply.wait_us / 1e6 or None if reply.decision in {"busy", "down"} else None
                    return NoCapacity(wait_s, is_busy=reply.decision == "busy", asked=asked)
                await asyncio.sleep(_UNKNOWN_KEY_PAUSE_S)
                unknown_keys = ()
                continue
            named = (upstream, reply.account, reply.key, reply.fingerprint)
            key = self._members.keys.get(named) or await self._load_key(named, lease_id)
            if key:
                self._queue.parts[upstream].leases[lease_id] = 0
                return Lease(lease_id, key, request.model, request.images, taken_s, asked)
            await self._cancel(upstream, lease_id)
            unknown_keys = (*unknown_keys, f"{reply.account}/{reply.key}")

    async def release(self, lease: Lease, report: CallReport) -> None:
        """Releases a lease and reports its call, whatever the outcome.

        Raises: GatewayError REDIS_UNAVAILABLE; the lease then expires.
        Redis: one round trip, lua/release.lua.
        """
        key = lease.key
        self._queue.parts[key.upstream].leases.pop(lease.id, None)
        payload: dict[str, object] = {"account": key.account, "key": key.name, "model": lease.model}
        payload["fingerprint"] = key.secret.fingerprint
        late_s = 0.0 if report.sent_s is None else report.sent_s - lease.taken_s
        if late_s > _LATE_S:
            payload["later_us"] = round(late_s * 1e6)
        if report.error_code is None:
            delivered = {"images": report.images, "usd_micros": report.usd_micros}
            payload |= {"is_success": True, "breaker": "well", **delivered}
            pool = self._members.pools.get(key.upstream)  # a reload may have removed it
            payload["alert_usd_micros"] = pool and pool.spend_alerts.get(key.account)
        else:
            payload |= self._error_report(report.error_code, report)
        await self._scripts.run("release", key.upstream, [lease.id, msgspec.json.encode(payload)])

    def note_sent(self, lease: Lease, sent_s: float) -> None:
        """Records when a call was sent. The next heartbeat reports a late one."""
        leases, late_s = self._queue.parts[lease.key.upstream].leases, sent_s - lease.taken_s
        if late_s > _LATE_S and lease.id in leases:
            leases[lease.id] = round(late_s * 1e6)

    async def place(self, watched: str) -> Place | None:
        """Returns the place of the request that a LeaseRequest named so; None if it does not wait.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per upstream, and lua/place.lua where it waits.
        """
        for upstream in self._members.upstreams:
            lease_id = await self._queue.watched(upstream, watched)
            reply = await self._scripts.run("place", upstream, [lease_id]) if lease_id else None
            if reply and reply.decision == "wait":
                return Place(reply.place, None if reply.wait_us < 0 else reply.wait_us / 1e6)
        return None

    async def has_capacity(self) -> bool:
        """Returns True if some upstream can be sent a request now; if not, `snapshot` has the reasons.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip per upstream until one has capacity, lua/has_capacity.lua: O(groups of accounts).
        """
        for upstream in self._members.upstreams:
            if (await self._scripts.run("has_capacity", upstream, [])).decision == "open":
                return True
        return False

    async def images_per_minute(self, upstream: str, model: str, images: int) -> float:
        """Returns the images a minute that an upstream can make, in calls of `images`; `model` is the upstream's name.

        It is the capacity of the usable accounts, shared by all tenants.
        Raises: GatewayError REDIS_UNAVAILABLE. Redis: as `snapshot`, for one upstream.
        """
        return (await self._snapshot(upstream)).images_per_minute(model, images)

    async def snapshot(self) -> list[PoolStatus]:
        """Returns the status of every upstream, account and key.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: lua/snapshot.lua, one round trip per some 25 accounts, one after another.
        """
        return [await self._snapshot(upstream) for upstream in self._members.upstreams]

    async def _snapshot(self, upstream: str) -> PoolStatus:
        found, cursor = PoolStatus(upstream=upstream), "0"
        accounts = dict[str, AccountStatus]()
        while True:
            reply = await self._scripts.run("snapshot", upstream, [cursor])
            found, cursor = reply.pool or found, reply.cursor
            accounts |= {account.name: account for account in found.accounts}
            if cursor == "0":
                return replace(found, accounts=tuple(accounts[name] for name in sorted(accounts)))

    async def _ask(
        self, request: LeaseRequest, lease_id: str, patience_us: int, asked: str, unknown_keys: tuple[str, ...]
    ) -> Reply:
        args: list[Value] = [lease_id, self._queue.channel, request.tenant, request.weight, request.images]
        args += [request.model, patience_us, asked, request.repeat.value, self._lease_us, self._queue.alive_us]
        args += [request.priority.value, *request.avoided, *unknown_keys]
        try:
            reply = await self._scripts.run("lease", request.upstream, args)
            if reply.decision == "unknown":
                await self._members.restore(request.upstream)
                reply = await self._scripts.run("lease", request.upstream, args)
        except BaseException:  # cancelled, or no reply: the script may have run, or may yet
            self._queue.cancel_later(request.upstream, lease_id)
            raise
        return reply

    async def _wait(
        self, request: LeaseRequest, lease_id: str, ends_s: float, left: Callable[[], Awaitable[object]]
    ) -> tuple[float, Reply | None]:
        """Waits for a lease. Returns: when it was claimed, and its reply; None if the scheduler must be asked again.

        Raises: GatewayError CLIENT_DISCONNECTED, REDIS_UNAVAILABLE.
        """
        upstream, leaving = request.upstream, asyncio.ensure_future(left())
        self._queue.join(upstream, lease_id)
        try:
            if request.watched:
                await self._queue.watch(upstream, request.watched, lease_id, ends_s - self._monotonic())
            while True:
                wake = await self._queue.sleep(upstream, lease_id, leaving, max(0.0, ends_s - self._monotonic()))
                taken_s = self._monotonic()
                if wake is not WakeReason.ASSIGNED:
                    break
                reply = await self._scripts.run("claim", upstream, [lease_id, self._lease_us])
                if reply.decision != "wait":
                    return taken_s, reply if reply.decision == "leased" else None
        except BaseException:
            self._queue.cancel_later(upstream, lease_id)
            raise
        finally:
            leaving.cancel()
            del self._queue.parts[upstream].waiters[lease_id]
        if wake is not WakeReason.FORGOTTEN:
            await self._cancel(upstream, lease_id)
        if wake is WakeReason.DISCONNECTED:
            raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
        return taken_s, None

    async def _cancel(self, upstream: str, lease_id: str) -> None:
        """Cancels a wait or a lease, now or with the next heartbeat."""
        try:
            await self._scripts.run("cancel", upstream, [lease_id])
        except BaseException as error:
            self._queue.cancel_later(upstream, lease_id)
            if not isinstance(error, GatewayError):
                raise

    async def _load_key(self, named: tuple[str, str, str, str], lease_id: str) -> ProviderKey | None:
        """Loads recently added keys. `named`: upstream, account, key and fingerprint."""
        upstream, account, name, _ = named
        try:
            await self._members.refresh(upstream)
        except BaseException:
            self._queue.cancel_later(upstream, lease_id)
            raise
        key = self._members.keys.get(named)
        if key is None:
            _LOG.warning("pool_key_missing", upstream=upstream, account=account, key=name)
        return key

    def _error_report(self, error_code: ErrorCode, report: CallReport) -> dict[str, object]:
        """Builds the part of lua/release.lua's report that an error adds."""
        spec = ERROR_SPECS[error_code]
        fields: dict[str, object] = {
            "error_code": error_code.value,
            "is_unauthorized": error_code is ErrorCode.KEY_INVALID,
            "is_unsent": spec.outcome is Outcome.NOT_SENT,
        }
        is_well = spec.outcome is Outcome.REFUSED and not spec.is_bare  # which says nothing about the server behind it
        if not report.is_cut_short and (spec.trips_breaker or is_well):
            fields["breaker"] = "ill" if spec.trips_breaker else "well"
        if spec.lowers is not CapacityHint.NOTHING:
            fields["lowers"] = spec.lowers.value
        cooldown = cooldown_for(error_code, self._clock(), asked_s=report.pause_s, cooldown_s=report.cooldown_s)
        if cooldown:
            fields |= {
                "scope": cooldown.scope.value,
                "state": cooldown.state.value,
                "seconds": cooldown.seconds,
                "seconds_max": cooldown.seconds_max,
                "busy": spec.status == 429,
            }
        return fields


def channel_of(process: str, prefix: str = PREFIX) -> str:
    """Returns the channel on which a process is notified of leases for its waiting requests."""
    return f"{prefix}:pool:{process}"
