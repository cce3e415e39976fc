"""Admission: reserves every limit and quota of a request atomically, and settles it exactly once.

Invariant: every reservation is settled. Normally its own process settles it when the request ends, even if cancelled,
or once Redis is back after an outage. If the process dies, its journal, which records the deliveries, or the recovery
settles it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Final

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.domain.billing import AdmissionRequest
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal
from gateway.domain.usage import Usage
from gateway.metering.decisions import AdmissionDecision, gateway_error
from gateway.metering.ledger import Ledger
from gateway.metering.reservations import (
    PARTS,
    LateOutcome,
    LostSettlements,
    Reservation,
    ReservationConfig,
    ReservationOutcome,
    Settled,
    journal_key,
    redis_keys,
)
from gateway.observability.metrics import Metrics
from gateway.redis import Client, Value, load_script, watched
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.journal import Journal

_LOG = structlog.get_logger("imagegate.admission")
_TICK_S: Final = 0.5
"""Delay after an outage of Redis before its unsettled requests are settled."""
_FLUSH_S: Final = 5.0
_RECENT_S: Final = 30.0
"""Reservations settled this recently are settled again if Redis may have lost its last writes; that is idempotent."""
_UNKNOWN_MAX: Final = 1000
"""Limit on admissions of unknown outcome that this process undoes itself. Beyond it, they expire."""
_NOTHING: Final = AdmissionRequest("", "", 0, ())


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
        notify: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`notify` is called with a tenant for which a script has appended events."""
        self._prefix = redis.prefix
        self._terms = terms
        self._lease_ms = round(terms.lease_s * 1000)
        self._metrics, self._monotonic, self._new_id = metrics, monotonic, new_id
        self._journal, self._clock, self._notify = journal, clock, notify
        self._lost = LostSettlements(Ledger(redis), terms.calendar)
        self._in_progress: dict[str, Reservation] = {}
        """In progress; this process renews their leases."""
        self._unsettled: dict[str, Reservation] = {}  # ended: Redis did not reply, or the request was cancelled
        self._recent: deque[Reservation] = deque()
        """Settled recently, oldest first."""
        self._was_unavailable = False
        self._admit, self._mark_sent, self._extend, self._charge = (
            watched(load_script(redis, f"metering/{name}", PARTS.get(name, ())), self.mark_data_suspect)
            for name in ("admit", "mark_sent", "renew", "settle")
        )

    @asynccontextmanager
    async def admit(
        self, caller: Principal, purchase: AdmissionRequest, transfer_id: str = ""
    ) -> AsyncIterator[Reservation]:
        """Reserves a request's cost, ends its transfer, and settles its outcome on exit, whatever the reason.

        Raises: GatewayError RATE_LIMITED, REQUEST_EXCEEDS_LIMIT, QUOTA_EXHAUSTED, INVALID_API_KEY, REDIS_UNAVAILABLE,
        IDEMPOTENCY_KEY_REUSED, RepeatedRequestError.
        Redis: one round trip to enter (lua/admit.lua), one to exit (lua/settle.lua).
        """
        reservation = Reservation(self._new_id(), caller, purchase, self._mark_sent, self._lease_ms, self._prefix)
        try:
            decision = await self._ask(caller.tenant.name, caller.key.id, reservation.id, purchase, transfer_id)
        except BaseException as error:  # the script may have run, or run later, unless it was never sent
            if len(self._unsettled) < _UNKNOWN_MAX and not isinstance(error.__cause__, CallNotStartedError):
                self._unsettled[reservation.id] = reservation
            raise
        reservation.rates, reservation.price_since_s = decision.rates, decision.price_since_s
        if decision.decision != "admitted":
            raise gateway_error(decision, caller)
        self._in_progress[reservation.id] = reservation
        try:
            yield reservation
        finally:
            reservation.tally.close()
            reservation.ended_s = self._clock()
            self._unsettled[reservation.id] = self._in_progress.pop(reservation.id)
            try:
                await self._settle(reservation)
            except BaseException as error:  # the background task settles it, or the next process by the journal
                if reservation.id in self._unsettled:
                    await self._journal_orders([reservation])
                if not isinstance(error, GatewayError):
                    raise

    async def peek(self, caller: Principal, *, is_refused: bool = False) -> AdmissionDecision:
        """Returns the counters, rates and quotas of a tenant and its key; counts a request refused for its content.

        Raises: GatewayError INVALID_API_KEY, REDIS_UNAVAILABLE; if the minute is full, what `admit` raises.
        """
        decision = await self._ask(caller.tenant.name, caller.key.id, is_refused=is_refused)
        if decision.decision != "admitted":
            raise gateway_error(decision, caller)
        return decision

    async def usage(self, tenant: str) -> Usage | None:
        """Returns a tenant's counters; None for an unknown tenant. Redis: one round trip, lua/admit.lua."""
        return (await self._ask(tenant)).used.get("tenant")

    async def replay(self, body: msgspec.Raw) -> None:
        """Settles a journal entry. Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""
        outcome = msgspec.json.decode(body, type=ReservationOutcome)
        settled = await self._settle_other(outcome.tenant, outcome.reservation, bytes(body))
        if settled.status == "gone" and outcome.was_sent:
            self._lost.suspect(outcome)

    async def settle_late(self, tenant: str, reservation_id: str, outcome: LateOutcome) -> bool:
        """Corrects a settlement by the truth about a task that ended after it. Idempotent.

        Returns: False if the reservation is not settled yet. Raises: GatewayError REDIS_UNAVAILABLE.
        """
        described = asdict(self._terms.rule) | {"reservation": reservation_id, "late": outcome}
        settled = await self._settle_other(tenant, reservation_id, msgspec.json.encode(described))
        return settled.status != "alive"

    async def settle_expired(self, tenant: str, reservation_id: str) -> None:
        """Settles an expired reservation by its own record. Raises: GatewayError REDIS_UNAVAILABLE."""
        rule = {"reservation": reservation_id} | asdict(self._terms.rule)
        settled = await self._settle_other(tenant, reservation_id, msgspec.json.encode(rule))
        if settled.status == "settled":
            _LOG.warning("reservation_expired", tenant=tenant, reservation=reservation_id, outcome=settled.outcome)

    async def run(self) -> None:
        """Settles unsettled reservations; runs until cancelled."""
        were_settled = True
        while True:
            await asyncio.sleep(_TICK_S)
            are_settled = await self._settle_all()
            if were_settled and not are_settled:
                _LOG.warning("settlements_delayed", unsettled=len(self._unsettled), in_flight=len(self._in_progress))
            were_settled = are_settled
            if self._was_unavailable:  # Redis may have lost its last writes, and this process may die before a replay
                await self._journal_orders(self._recent)
            self._resettle_recent(is_back=self._was_unavailable and are_settled)
            with suppress(GatewayError):
                await self._lost.log()

    async def keep_alive(self) -> None:
        """Renews the leases of reservations in progress; runs until cancelled."""
        is_renewed = True
        while True:
            await asyncio.sleep(self._terms.lease_s / 4 if is_renewed else _TICK_S)
            by_tenant: dict[str, list[Value]] = {}
            for reservation in (*self._in_progress.values(), *self._unsettled.values()):
                ids = (reservation.id, reservation.caller.key.id)
                by_tenant.setdefault(reservation.caller.tenant.name, []).extend(ids)
            is_renewed = all(await asyncio.gather(*(self._renew(*entry) for entry in by_tenant.items())))

    async def flush(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Settles everything before shutdown, which has `left_s` seconds and takes a few in any case.

        What Redis does not accept by then remains in the journal, or expires as unconfirmed without one. It waits even
        with a journal, because the directory may vanish with the machine or pod.
        """
        began_s = self._monotonic()
        while self._unsettled or self._in_progress:  # an aborted request exits now
            await self._settle_all()
            if self._monotonic() - began_s >= _FLUSH_S and not left_s():
                break
            await asyncio.sleep(_TICK_S / 10)
        await self._journal_orders([*self._unsettled.values(), *(self._recent if self._was_unavailable else ())])
        if kept := sum(self._journal.holds(journal_key(reservation_id)) for reservation_id in self._unsettled):
            _LOG.warning("settlements_journaled", reservations=kept)
        if left := len(self._unsettled) + len(self._in_progress) - kept:
            _LOG.error("settlements_abandoned", reservations=left, hint="they settle when they expire")
        with suppress(GatewayError):
            await self._lost.log()

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
        reservation_id: str = "",
        purchase: AdmissionRequest = _NOTHING,
        transfer_id: str = "",
        *,
        is_refused: bool = False,
    ) -> AdmissionDecision:
        own, terms = f"key:{key_id}:", self._terms
        keys = redis_keys(self._prefix, tenant, "tenant", "keys", f"reservation:{reservation_id}")
        keys += redis_keys(self._prefix, tenant, "open", f"{own}open", "rate", f"{own}rate")
        asked = (purchase.request_id, purchase.model, purchase.images, purchase.costs())
        bounds = (self._lease_ms, int(is_refused), terms.recent_max, terms.records_max)
        described = (transfer_id, *terms.describe(purchase, self._clock()))
        reply = await self._admit(keys, [reservation_id, key_id, *asked, *bounds, *described])
        decision = msgspec.json.decode(str(reply), type=AdmissionDecision, strict=False)
        await self._announce(tenant, decision)
        return decision

    async def _announce(self, tenant: str, reply: AdmissionDecision | Settled) -> None:
        if reply.has_events and self._notify:
            with suppress(GatewayError):  # the events are found without it, later
                await self._notify(tenant)

    async def _settle_all(self) -> bool:
        """Settles by tenant: a failure delays that tenant only. Returns: True if all were settled."""
        by_tenant: dict[str, list[Reservation]] = {}
        for reservation in self._unsettled.values():
            by_tenant.setdefault(reservation.caller.tenant.name, []).append(reservation)

        async def settle(reservations: list[Reservation]) -> bool:
            are_settled = True
            for reservation in reservations:
                try:
                    await self._settle(reservation)
                except GatewayError as error:
                    are_settled = False
                    if not isinstance(error.__cause__, ResponseError):
                        break  # Redis does not reply: the others wait for the next round
            return are_settled

        return all(await asyncio.gather(*map(settle, by_tenant.values())))

    async def _settle(self, reservation: Reservation) -> None:
        """Settles a reservation; idempotent. Raises: GatewayError REDIS_UNAVAILABLE."""
        outcome = ReservationOutcome.of(reservation, self._terms.rule)
        settled = await self._run_settle(outcome.tenant, reservation.id, msgspec.json.encode(outcome))
        if self._unsettled.pop(reservation.id, None) is None:
            return  # already settled, by the request or the background task
        if self._journal.unconfirmed:
            self._journal.done(journal_key(reservation.id))
        if settled.status == "gone" and outcome.was_sent and not reservation.is_lost:
            reservation.is_lost = True
            self._lost.suspect(outcome)
        if reservation.settled_s is None:
            settled.count(reservation.caller.tenant.current_name, self._metrics)
            reservation.charged_usd_micros = settled.usd_micros
            reservation.settled_s = self._monotonic()
            self._recent.append(reservation)
        await self._announce(outcome.tenant, settled)

    async def _run_settle(self, tenant: str, reservation_id: str, outcome: bytes) -> Settled:
        keys = redis_keys(self._prefix, tenant, f"reservation:{reservation_id}", "open")
        return Settled.read(await self._charge(keys, self._terms.settle_args(outcome, self._clock())))

    async def _settle_other(self, tenant: str, reservation_id: str, outcome: bytes) -> Settled:
        """Settles a reservation of another process, which may be dead. Raises: GatewayError REDIS_UNAVAILABLE."""
        settled = await self._run_settle(tenant, reservation_id, outcome)
        if settled.status != "repeated":  # a repeated one is already counted
            settled.count(tenant, self._metrics)
        await self._announce(tenant, settled)
        return settled

    async def _journal_orders(self, reservations: Iterable[Reservation]) -> None:
        """Journals reservations that ordered images. Without an order, expiry has the same result: no charge."""
        new = (one for one in reservations if one.tally.shares and self._journal.wants(journal_key(one.id)))
        await self._journal.note(ReservationOutcome.of(one, self._terms.rule).entry() for one in new)

    def _resettle_recent(self, *, is_back: bool) -> None:
        """Drops old settled reservations, except during an outage. After an outage, the others are settled again."""
        if is_back:
            self._unsettled.update({reservation.id: reservation for reservation in self._recent})
            self._was_unavailable = False
        if not self._was_unavailable:
            while self._recent and (self._recent[0].settled_s or 0) < self._monotonic() - _RECENT_S:
                self._recent.popleft()

    async def _renew(self, tenant: str, reservations: list[Value]) -> bool:
        """Renews leases of a tenant. A failure affects that tenant only."""
        try:
            await self._extend(redis_keys(self._prefix, tenant, "open"), [self._lease_ms, *reservations])
        except GatewayError:
            return False
        return True
