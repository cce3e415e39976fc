"""Requests that repeat an order: they wait for its outcome and get it, and buy nothing.

Redis decides at admission whether a request repeats an order (metering/lua/repeats.lua, with the states of an order).
The process of the order stores its outcome

- always, if the request has an Idempotency-Key;
- if the client has disconnected and may retry, or the outcome is unknown;
- otherwise, for an SDK's request, within 10 s if another process asks for it.

It holds the results of SDKs' requests in memory for 10 s. So a retry at the same process gets its images, whatever
their size, and needs no storage.

A failure that is known to be free is not stored: a request that waited for it becomes an order itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.billing import Repetition, RequestOutcome
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageResult
from gateway.domain.tenants import Principal
from gateway.generation.context import GenerationRequest, RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.generation.service import GenerationService
from gateway.jobs.outcomes import OrderStatus, Outcomes
from gateway.metering.decisions import Order, RepeatedRequestError
from gateway.metering.reservations import RepeatPolicy, Reservation
from gateway.observability.metrics import Metrics
from gateway.redis import Client, subscribe

_POLL_S: Final = 0.25
"""Images take seconds, so this delays none noticeably. An order has at most 32 requests that wait for it."""
_ORDERS_MAX: Final = 5
"""Limit on the orders that a request waits for. Those before the last one failed for free."""
_HELD_S: Final = 10.0
"""SDKs retry within 8 s (reference/openai-images.md 6.3). The ending time of repeats.lua."""
_HELD_PART: Final = 16
"""Part of the byte budget for results held in memory."""
_HELD_MAX: Final = 1000
"""Limit on them; most are links."""
_LISTEN_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ReplayTerms:
    """The operator's settings, in seconds."""

    deadline_s: float
    """For a request that waits for another's outcome."""
    repeats: RepeatPolicy
    result_s: float
    """Results without an Idempotency-Key are stored for this long."""


@dataclass(slots=True, eq=False)
class Replays:
    """Generates images for tenants, and replays outcomes for requests that repeat an order."""

    _service: GenerationService
    _outcomes: Outcomes
    _redis: Client
    _terms: ReplayTerms
    _budget: ByteBudget
    _metrics: Metrics
    _monotonic: Callable[[], float]
    _held: dict[str, tuple[str, ImageResult, ByteAccount]] = field(default_factory=dict, init=False)
    """By reservation ID, oldest first: the tenant, and the result that its client has probably received."""
    _held_bytes: int = field(default=0, init=False)

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

    async def listen(self) -> None:
        """Stores held results that other processes ask for; runs until cancelled and reconnects after failures."""
        while True:
            with suppress(GatewayError, UnicodeDecodeError):  # a request that waits asks again
                async for order_id in subscribe(self._redis, self._terms.repeats.channel):
                    if order_id and (held := self._held.get(order_id)):
                        await self._outcomes.store(held[0], order_id, held[1], _HELD_S)
                        self._drop(order_id)
            await asyncio.sleep(_LISTEN_PAUSE_S)

    async def _order(self, principal: Principal, request: GenerationRequest, context: RequestContext) -> ImageResult:
        """Runs the request as an order, and keeps its outcome for requests that repeat it."""
        try:
            result = await self._service.generate(principal, request, context)
        except GatewayError as error:
            if context.reservation and context.identity and not isinstance(error, RepeatedRequestError):
                await self._keep_error(context.reservation, context.identity.kind, error)
            raise
        if context.reservation and context.identity and context.identity.kind is not Repetition.PLAIN:
            await self._keep_result(context.reservation, context, result)
        return result

    async def _keep_error(self, reservation: Reservation, kind: Repetition, error: GatewayError) -> None:
        """Stores an error that a retry must not turn into a purchase, or, with a key, that it cannot change."""
        tally, kept_s = reservation.tally, self._terms.repeats.keyed_s
        if error.row.may_client_retry or not tally.reached_upstream:
            return
        if kind is not Repetition.KEYED:
            if tally.settlement is RequestOutcome.REFUSED:
                return
            kept_s = max(self._terms.repeats.unknown_s, _HELD_S)
        with suppress(GatewayError):  # a repeated request gets the error of an unknown outcome
            await self._outcomes.store(reservation.caller.tenant.name, reservation.id, error, kept_s)

    async def _keep_result(self, reservation: Reservation, context: RequestContext, result: ImageResult) -> None:
        tenant, is_keyed = reservation.caller.tenant.name, _is_keyed(context)
        if is_keyed or context.disconnected.is_set():
            with suppress(GatewayError):  # a repeated request gets RESULT_NOT_KEPT
                kept_s = self._terms.repeats.keyed_s if is_keyed else self._terms.result_s
                await self._outcomes.store(tenant, reservation.id, result, kept_s)
        if is_keyed:
            return
        account, max_bytes = ByteAccount(self._budget, tenant), self._budget.max_bytes // _HELD_PART
        account.note(result.held_bytes)
        self._held[reservation.id], self._held_bytes = (tenant, result, account), self._held_bytes + account.held_bytes
        asyncio.get_running_loop().call_later(_HELD_S, self._drop, reservation.id)
        while len(self._held) > 1 and (self._held_bytes > max_bytes or len(self._held) > _HELD_MAX):
            self._drop(next(iter(self._held)))

    def _drop(self, order_id: str) -> None:
        if held := self._held.pop(order_id, None):
            self._held_bytes -= held[2].held_bytes
            held[2].close()

    async def _join(self, tenant: str, order: Order, context: RequestContext) -> ImageResult | GatewayError | None:
        """Waits for the outcome of an order. Returns: None if it failed for free.

        Raises: GatewayError CLIENT_DISCONNECTED, ORDER_IN_PROGRESS.
        """
        is_keyed, is_remembered = _is_keyed(context), order.left_ms > 0
        read_kept_s = 0.0 if is_keyed or is_remembered else _HELD_S
        ends_s = context.started_s + self._terms.deadline_s
        outcome: ImageResult | GatewayError | None = None
        while outcome is None:
            if context.disconnected.is_set():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            status = OrderStatus("running")
            with suppress(GatewayError):  # while Redis is unavailable, nothing can be bought either
                status = await self._outcomes.poll(tenant, order.id, read_kept_s)
            held = self._held.get(order.id)
            if status.state == "ended":
                outcome = await self._outcomes.load(tenant, order.id, status, context.memory)
                outcome = held[1] if held and isinstance(outcome, GatewayError) else outcome
            elif held:
                outcome = held[1]
            elif status.state == "unknown":
                outcome = GatewayError(ErrorCode.CONNECTION_LOST, "the order that it repeats has no stored outcome")
            elif status.state == "gone":
                outcome = GatewayError(ErrorCode.RESULT_NOT_KEPT)
            elif status.state == "free":
                return None
            elif self._monotonic() >= ends_s:
                raise GatewayError(ErrorCode.ORDER_IN_PROGRESS)
            else:
                await asyncio.sleep(_POLL_S)
        context.replayed = "idempotency_key" if is_keyed else "unknown_outcome" if is_remembered else "retry"
        self._metrics.replays.labels(context.replayed).inc()
        if isinstance(outcome, GatewayError) and is_remembered:
            outcome.note = (
                "An identical request had this outcome, and this one was not sent. Identical ones get this response "
                f"for {-(-order.left_ms // 1000)} s. To buy images nevertheless, send a new Idempotency-Key."
            )
        return outcome


def _is_keyed(context: RequestContext) -> bool:
    return context.identity is not None and context.identity.kind is Repetition.KEYED
