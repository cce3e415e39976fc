"""Admission: reserves every limit and quota of a request atomically, and settles it exactly once.

Invariant: every reservation is settled. Normally its own process settles it when the request ends, even if
cancelled, or once Redis is back after an outage. If the process dies, its journal, which records the deliveries,
or the recovery settles it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import msgspec
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.domain.billing import AdmissionRequest, Timings, Usage
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal, Rates
from gateway.metering.decisions import AdmissionDecision, gateway_error, rates_of, usage_of
from gateway.metering.reservations import (
    Reservation,
    ReservationConfig,
    ReservationKeys,
    ReservationOutcome,
    settlement_key,
)
from gateway.metering.settlement import Settlements
from gateway.observability.metrics import Metrics
from gateway.redis import Client, Value, load_script
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.journal import Journal

_LOG = structlog.get_logger("imagegate.admission")
_T = TypeVar("_T")
_TICK_S: Final = 0.5
"""Delay after an outage of Redis before its unsettled requests are settled."""
_FLUSH_S: Final = 5.0
_RECENT_S: Final = 30.0
"""How long settled reservations are remembered. Redis may lose its last writes, by a snapshot restore or a failover.

They are then settled again, which is idempotent.
"""
_UNKNOWN_MAX: Final = 1000
"""Limit on admissions of unknown outcome that this process undoes itself. Beyond it, they expire."""


class Admission:
    """Admits requests within every limit and quota, and settles them."""

    def __init__(
        self,
        redis: Client,
        terms: ReservationConfig,
        metrics: Metrics,
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
        journal: Journal = Journal(),  # noqa: B008 - off, so it holds nothing
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prefix = redis.prefix
        self._terms = terms
        self._monotonic = monotonic
        self._new_id = new_id
        self._journal = journal
        self._clock = clock
        self._settling = Settlements(redis, terms, metrics)
        self.settle_expired, self.replay = self._settling.settle_expired, self._settling.replay
        self._in_progress: dict[str, Reservation] = {}
        """In progress; this process renews their leases."""
        self._unsettled: dict[str, Reservation] = {}
        """Ended but unsettled, because Redis did not reply or the request was cancelled."""
        self._recent: deque[Reservation] = deque()
        """Settled recently, oldest first."""
        self._was_unavailable = False
        self._admit = load_script(redis, "metering/admit")
        self._send = load_script(redis, "metering/mark_sent")
        self._extend = load_script(redis, "metering/renew")

    @asynccontextmanager
    async def admit(
        self, caller: Principal, purchase: AdmissionRequest, durations: Callable[[], Timings], transfer_id: str = ""
    ) -> AsyncIterator[Reservation]:
        """Reserves a request's cost, ends its transfer, and settles its outcome on exit, whatever the reason.

        Raises: GatewayError RATE_LIMITED, REQUEST_EXCEEDS_LIMIT, QUOTA_EXHAUSTED, INVALID_API_KEY, REDIS_UNAVAILABLE.
        Redis: one round trip to enter (lua/admit.lua), one to exit (lua/settle.lua).
        """
        reservation = Reservation(self._new_id(), caller, purchase, durations, self._record_order)
        try:
            decision = await self._ask(caller.tenant.name, caller.key.id, reservation.id, purchase, transfer_id)
        except BaseException as error:
            # The script may have run, or may run when Redis recovers, unless it was never sent.
            if len(self._unsettled) < _UNKNOWN_MAX and not isinstance(error.__cause__, CallNotStartedError):
                self._unsettled[reservation.id] = reservation
            raise
        reservation.rates = rates_of(decision)
        if decision.decision != "admitted":
            raise gateway_error(decision, caller)
        self._in_progress[reservation.id] = reservation
        try:
            yield reservation
        finally:
            reservation.end(self._clock())
            self._unsettled[reservation.id] = self._in_progress.pop(reservation.id)
            await self._settle_or_journal(reservation)

    async def peek_rates(self, caller: Principal, *, is_refused: bool = False) -> Rates:
        """Returns the status of the rate limits; counts a request that was refused for its content.

        Raises: GatewayError REDIS_UNAVAILABLE; if the minute is full, what `admit` raises. Redis: one round trip.
        """
        decision = await self._ask(caller.tenant.name, caller.key.id, is_refused=is_refused)
        if decision.decision == "rate":
            raise gateway_error(decision, caller)
        return rates_of(decision)

    async def usage(self, tenant: str) -> Usage | None:
        """Returns a tenant's counters; None for an unknown tenant. Redis: one round trip, lua/admit.lua."""
        return usage_of(await self._ask(tenant))

    async def run(self) -> None:
        """Settles unsettled reservations; runs until cancelled."""
        was_waiting = False
        while True:
            await asyncio.sleep(_TICK_S)
            are_paid = await self._settle_all()
            if not are_paid and not was_waiting:
                _LOG.warning("settlements_delayed", unsettled=len(self._unsettled), in_flight=len(self._in_progress))
            was_waiting = not are_paid
            if (
                self._was_unavailable
            ):  # Redis may have lost its last writes, and this process may die before it replays them
                await self._journal_orders(self._recent)
            self._resettle_recent(is_back=self._was_unavailable and are_paid)
            with suppress(GatewayError):
                await self._settling.lost.log()

    async def keep_alive(self) -> None:
        """Renews the leases of reservations in progress; runs until cancelled."""
        renewed_s = self._monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._monotonic() - renewed_s >= self._terms.lease_s / 4 and await self._renew():
                renewed_s = self._monotonic()

    async def flush(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Settles everything before shutdown, which has `left_s` seconds and takes a few in any case.

        Reservations that Redis does not accept by then remain in the journal. Without a journal they expire as
        unconfirmed. It waits even with a journal, because the directory may vanish with the machine or pod.
        """
        began_s = self._monotonic()
        while self._unsettled or self._in_progress:  # an aborted request exits now
            await self._settle_all()
            if self._monotonic() - began_s >= _FLUSH_S and not left_s():
                break
            await asyncio.sleep(_TICK_S / 10)
        await self._journal_orders([*self._unsettled.values(), *(self._recent if self._was_unavailable else ())])
        kept = [
            reservation_id for reservation_id in self._unsettled if self._journal.holds(settlement_key(reservation_id))
        ]
        if kept:
            _LOG.warning("settlements_journaled", reservations=len(kept))
        if left := len(self._unsettled) + len(self._in_progress) - len(kept):
            _LOG.error("settlements_abandoned", reservations=left, hint="they settle when they expire")
        with suppress(GatewayError):
            await self._settling.lost.log()

    def mark_data_suspect(self) -> None:
        """Settles recent reservations again at the next reply: Redis may have restarted without its last writes."""
        self._was_unavailable = True

    @property
    def unsettled(self) -> int:
        """Returns the number of ended but unsettled requests of this process."""
        return len(self._unsettled)

    async def _ask(
        self,
        tenant: str,
        key_id: str = "",
        reservation: str = "",
        purchase: AdmissionRequest | None = None,
        transfer: str = "",
        *,
        is_refused: bool = False,
    ) -> AdmissionDecision:
        args: list[Value] = [reservation, key_id]
        if purchase:
            args += [purchase.request_id, purchase.model, purchase.images, purchase.costs()]
        else:
            args += ["", "", 0, ""]
        args += [round(self._terms.lease_s * 1000), int(is_refused), self._terms.recent_max, self._terms.records_max]
        reply = await self._watched(
            self._admit([*ReservationKeys.of(self._prefix, tenant, key_id, reservation)], [*args, transfer])
        )
        return msgspec.json.decode(str(reply), type=AdmissionDecision, strict=False)

    async def _record_order(self, reservation: Reservation, upstream: str, account: str, images: int) -> bool:
        args: list[Value] = [reservation.id, f"{upstream}/{account}", images, round(self._terms.lease_s * 1000)]
        names = ReservationKeys.of(
            self._prefix, reservation.caller.tenant.name, reservation.caller.key.id, reservation.id
        )
        return await self._watched(self._send([names.reservation, names.open, names.key_open], args)) == 1

    async def _settle_all(self) -> bool:
        """Settles by tenant: a failure delays that tenant only. Returns: True if all were settled."""
        by_tenant: dict[str, list[Reservation]] = {}
        for reservation in self._unsettled.values():
            by_tenant.setdefault(reservation.caller.tenant.name, []).append(reservation)
        return all(await asyncio.gather(*(self._settle_tenant(reservations) for reservations in by_tenant.values())))

    async def _settle_tenant(self, reservations: list[Reservation]) -> bool:
        """Returns: True if all were settled. After an unanswered call the others wait for the next round."""
        are_paid = True
        for reservation in reservations:
            try:
                await self._settle(reservation)
            except GatewayError as error:
                are_paid = False
                if not isinstance(error.__cause__, ResponseError):
                    break
        return are_paid

    async def _settle(self, reservation: Reservation) -> None:
        """Settles a reservation; idempotent. Raises: GatewayError REDIS_UNAVAILABLE."""
        outcome = ReservationOutcome.of(reservation, self._terms.rule)
        settled = await self._watched(self._settling.settle(outcome))
        if self._unsettled.pop(reservation.id, None) is None:
            return  # already settled, by the request or the background task
        self._journal.done(settlement_key(reservation.id))
        if settled.status == "gone" and outcome.was_sent and not reservation.is_lost:
            reservation.is_lost = True
            self._settling.lost.suspect(outcome)
        if reservation.settled_s is None:
            self._settling.count(settled, outcome.tenant)
            reservation.charged_usd_micros = settled.usd_micros
            reservation.settled_s = self._monotonic()
            self._recent.append(reservation)

    async def _settle_or_journal(self, reservation: Reservation) -> None:
        """Settles a reservation before its response is sent. On failure it is journaled and remains unsettled."""
        try:
            await self._settle(reservation)
        except BaseException as error:
            if reservation.id in self._unsettled:
                await self._journal_orders([reservation])
            if not isinstance(error, GatewayError):
                raise

    async def _journal_orders(self, reservations: Iterable[Reservation]) -> None:
        """Journals reservations that ordered images. Without an order, expiry has the same result: no charge."""
        ordered = (reservation for reservation in reservations if reservation.tally.shares)
        new = (reservation for reservation in ordered if self._journal.wants(settlement_key(reservation.id)))
        await self._journal.note(ReservationOutcome.of(reservation, self._terms.rule).entry() for reservation in new)

    def _resettle_recent(self, *, is_back: bool) -> None:
        """Drops old settled reservations, except during an outage. After an outage, the others are settled again."""
        if is_back:
            self._unsettled.update({reservation.id: reservation for reservation in self._recent})
            self._was_unavailable = False
        while (
            not self._was_unavailable
            and self._recent
            and (self._recent[0].settled_s or 0) < self._monotonic() - _RECENT_S
        ):
            self._recent.popleft()

    async def _watched(self, call: Awaitable[_T]) -> _T:
        """Returns a script's reply. A broken connection may mean a restart of Redis; a late reply does not.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        try:
            return await call
        except GatewayError as error:
            if isinstance(error.__cause__, RedisConnectionError) and not isinstance(
                error.__cause__, CallNotStartedError
            ):
                self.mark_data_suspect()
            raise

    async def _renew(self) -> bool:
        """Renews leases by tenant: a failure affects that tenant only. Returns: True if all were renewed."""
        by_tenant: dict[str, list[Value]] = {}
        for reservation in (*self._in_progress.values(), *self._unsettled.values()):
            by_tenant.setdefault(reservation.caller.tenant.name, []).extend((reservation.id, reservation.caller.key.id))
        return all(await asyncio.gather(*(self._renew_tenant(*entry) for entry in by_tenant.items())))

    async def _renew_tenant(self, tenant: str, reservations: list[Value]) -> bool:
        try:
            await self._watched(
                self._extend(
                    [ReservationKeys.of(self._prefix, tenant).open], [round(self._terms.lease_s * 1000), *reservations]
                )
            )
        except GatewayError:
            return False
        return True
