"""Requests that repeat an order: they wait for its outcome and get it, and buy nothing.

Redis decides at admission whether a request repeats an order (metering/lua/repeats.lua, with the states of an order).
The process of the order stores its outcome

- always, if the request has an Idempotency-Key;
- if the client has disconnected and may retry, or the outcome is unknown;
- otherwise, for an SDK's request, within 10 s if another process asks for it.

Until then it holds the result in memory (held_results.py). So a retry at the same process gets its images, whatever
their size, and needs no storage.

A failure that is known to be free is not stored: a request that waited for it becomes an order itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.domain.billing import Repetition, RequestOutcome
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import ImageResult
from gateway.domain.tenants import Principal
from gateway.generation.context import GenerationRequest, OrderNumbers, RequestContext
from gateway.generation.service import GenerationService
from gateway.jobs.held_results import HELD_S, HeldResult, HeldResults
from gateway.jobs.outcomes import OrderStatus, Outcomes
from gateway.metering.decisions import Order, RepeatedRequestError
from gateway.metering.reservations import RepeatPolicy, Reservation
from gateway.observability.metrics import Metrics

_LINKS_S: Final = 1.0
"""Limit on the wait for Redis before a response of links; they are stored after it too."""
_POLL_S: Final = 0.25
"""Images take seconds, so this delays none noticeably. An order has at most 32 requests that wait for it."""
_ORDERS_MAX: Final = 5
"""Limit on the orders that a request waits for. Those before the last one failed for free."""
_BUY_AGAIN: Final = "To buy images nevertheless, send a new Idempotency-Key."


@dataclass(frozen=True, slots=True)
class ReplayTerms:
    """The operator's settings, in seconds."""

    deadline_s: float
    """For a request that waits for another's outcome."""
    repeats: RepeatPolicy
    result_s: float
    """Results without an Idempotency-Key are stored for this long."""
    keep_hours: int
    """Images of links are stored for this long, unless the tenant has a time of its own."""
    charges_unknown: bool
    """Whether tenants pay for images of unknown outcome."""


@dataclass(slots=True, eq=False)
class Replays:
    """Generates images for tenants, and replays outcomes for requests that repeat an order."""

    _service: GenerationService
    _outcomes: Outcomes
    held: HeldResults
    _terms: ReplayTerms
    _metrics: Metrics
    _monotonic: Callable[[], float]

    async def generate(self, principal: Principal, request: GenerationRequest, context: RequestContext) -> ImageResult:
        """Makes a request's images, or returns those of the order that it repeats.

        Returns: at least one image; fewer than requested if some were withheld or some calls failed.
        Raises: GatewayError.
        """
        for _ in range(_ORDERS_MAX):
            try:
                return await self._order(principal, request, context)
            except RepeatedRequestError as repeated:
                order, context.rates = repeated.order, repeated.rates or context.rates
            outcome = await self._join(principal.tenant.name, order, context)
            if isinstance(outcome, ImageResult):
                await self._service.present(outcome, request.job, context)
                return outcome
            if outcome:
                raise outcome
        raise GatewayError(ErrorCode.ORDER_IN_PROGRESS)

    async def keep_late(self, tenant: str, order_id: str, result: ImageResult) -> bool:
        """Stores the images of an order whose request had no answer, for requests with the same Idempotency-Key."""
        kept_s = self._terms.repeats.keyed_s
        with suppress(GatewayError):
            images = await self._outcomes.store_images(tenant, order_id, result.pictures, kept_s)
            if images is not None:
                await self._outcomes.store(tenant, order_id, result, OrderNumbers(0, 1), kept_s, images)
                return True
        return False

    async def _order(self, principal: Principal, request: GenerationRequest, context: RequestContext) -> ImageResult:
        """Runs the request as an order, and keeps its outcome for requests that repeat it."""
        kept_s, tenant_s = self._terms.repeats.keyed_s, 3600 * (principal.tenant.keep_hours or self._terms.keep_hours)
        if context.is_keyed and tenant_s < kept_s:
            context.keep_s = round(kept_s)  # for its links, too
        try:
            result = await self._service.generate(principal, request, context)
        except GatewayError as error:
            if context.reservation and context.identity and not isinstance(error, RepeatedRequestError):
                await self._keep_error(context.reservation, context, error)
            if context.reservation and context.reservation.tally.settlement is RequestOutcome.UNCONFIRMED:
                error.note = self._unknown_note()
            raise
        if context.reservation and context.identity and context.identity.kind is not Repetition.PLAIN:
            await self._keep_result(context.reservation, context, result)
        return result

    async def _keep_error(self, reservation: Reservation, context: RequestContext, error: GatewayError) -> None:
        """Stores an error that a retry must not turn into a purchase, or, with a key, that it cannot change."""
        tally, kept_s = reservation.tally, self._terms.repeats.keyed_s
        if error.row.may_client_retry or not tally.reached_upstream:
            return
        if not context.is_keyed:
            if tally.settlement is RequestOutcome.REFUSED:
                return
            kept_s = max(self._terms.repeats.unknown_s, HELD_S)
        tenant = reservation.caller.tenant.name
        with suppress(GatewayError):  # a repeated request gets the error of an unknown outcome
            await self._outcomes.store(tenant, reservation.id, error, context.numbers, kept_s)

    async def _keep_result(self, reservation: Reservation, context: RequestContext, result: ImageResult) -> None:
        """Holds a result, and has it stored: links before the response, images with its first byte.

        If the client has disconnected, they are stored at once.
        """
        tenant, is_keyed, has_left = reservation.caller.tenant.name, context.is_keyed, context.disconnected.is_set()
        kept_s = self._terms.repeats.keyed_s if is_keyed else self._terms.result_s if has_left else HELD_S
        held = HeldResult(tenant, reservation.id, result, context.numbers, kept_s, context.stored)
        if not self.held.hold(held, is_owed=is_keyed):
            with suppress(GatewayError):  # a repeated request gets RESULT_NOT_KEPT
                await self._outcomes.store(tenant, reservation.id, result, context.numbers, kept_s)
        elif has_left:
            self.held.store(reservation.id)
        elif is_keyed and result.held_bytes:
            context.on_first_byte = partial(self.held.store, reservation.id)
        elif is_keyed and (storing := self.held.store(reservation.id)):
            await asyncio.wait([storing], timeout=_LINKS_S)

    async def _join(self, tenant: str, order: Order, context: RequestContext) -> ImageResult | GatewayError | None:
        """Waits for the outcome of an order. Returns: None if it failed for free.

        Raises: GatewayError CLIENT_DISCONNECTED, ORDER_IN_PROGRESS.
        """
        is_keyed, is_remembered = context.is_keyed, order.left_ms > 0
        read_kept_s = 0.0 if is_keyed or is_remembered else HELD_S
        ends_s = context.started_s + self._terms.deadline_s
        outcome: ImageResult | GatewayError | None = None
        while outcome is None:
            if context.disconnected.is_set():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            status = OrderStatus("running")
            with suppress(GatewayError):  # while Redis is unavailable, nothing can be bought either
                status = await self._outcomes.poll(tenant, order.id, read_kept_s)
            if status.state == "free":
                return None
            outcome = await self._read(tenant, order.id, status, context)
            if outcome is None and self._monotonic() >= ends_s:
                raise GatewayError(ErrorCode.ORDER_IN_PROGRESS)
            if outcome is None:
                await asyncio.sleep(_POLL_S)
        context.replayed = "idempotency_key" if is_keyed else "unknown_outcome" if is_remembered else "retry"
        self._metrics.replays.labels(context.replayed).inc()
        if isinstance(outcome, GatewayError) and is_remembered:
            outcome.note = (
                "An identical request had this outcome, and this one was not sent. Identical ones get this response "
                f"for {-(-order.left_ms // 1000)} s. {_BUY_AGAIN}"
            )
        elif isinstance(outcome, GatewayError) and outcome.row.outcome is Outcome.UNKNOWN:
            outcome.note = self._unknown_note()
        return outcome

    def _unknown_note(self) -> str:
        return f"It was {'' if self._terms.charges_unknown else 'not '}charged. {_BUY_AGAIN}"

    async def _read(
        self, tenant: str, order_id: str, status: OrderStatus, context: RequestContext
    ) -> ImageResult | GatewayError | None:
        """Returns the outcome of an order, from memory if this process has it; None if it is not known yet."""
        if held := self.held.get(order_id):
            context.order = held.numbers
            return held.result
        if status.state == "ended":
            outcome, context.order = await self._outcomes.load(tenant, order_id, status, context.memory)
            return outcome
        if status.state == "unknown":
            return GatewayError(ErrorCode.CONNECTION_LOST, "the order that it repeats has no stored outcome")
        return GatewayError(ErrorCode.RESULT_NOT_KEPT) if status.state == "gone" else None
