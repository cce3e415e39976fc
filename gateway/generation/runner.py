"""Runs jobs: splits them into calls, leases a key for each, sends it, and retries what is known to be free.

Invariant: the reservation records each call before it is sent, and its outcome afterwards.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.domain.accounts import ProviderKey
from gateway.domain.billing import OpenCall
from gateway.domain.catalog import Model, PlannedTarget, Target
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import (
    CallPlan,
    ImageJob,
    ImageReply,
    ImageResult,
    ImageUrl,
    ResponseFormat,
    split_count,
    with_seed_of,
)
from gateway.domain.pricing import CallPrice, rate_at
from gateway.domain.tracing import Attempt
from gateway.generation.calls import UpstreamCall, UpstreamClient
from gateway.generation.context import GenerationRequest, RequestContext
from gateway.generation.downloads import ImageDownloader
from gateway.generation.retries import (
    CallDurations,
    CallResult,
    RetryState,
    is_for_another_target,
    most_relevant_error,
    read_part,
)
from gateway.generation.upstreams import UpstreamSet
from gateway.metering.reservations import Reservation
from gateway.observability.metrics import Metrics
from gateway.scheduler import Lease, LeaseRequest, NoCapacity, Priority, Scheduler

_STALE_S: Final = 5.0
"""A lease unused for this long is released, because its account's minute has moved on."""


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """The operator's limits on one request."""

    deadline_s: float
    """For the whole request, across all attempts."""
    reserve_s: float
    """Part of the deadline reserved for the call while a request waits for an account."""
    max_attempts: int


@dataclass(frozen=True, slots=True)
class JobContext:
    """One job in progress, with the upstreams of its start; times are monotonic."""

    job: ImageJob
    model: Model
    reservation: Reservation
    context: RequestContext
    supply: UpstreamSet
    started_s: float
    ends_at: float
    accused: dict[ErrorCode, set[tuple[str, str]]] = field(default_factory=dict)
    """Keys (upstream, key ID) of all parts by error without a provider code: the same with two blames the request."""

    def judge(self, error: GatewayError, key: ProviderKey) -> GatewayError:
        """Returns the call's error, or REQUEST_BLOCKED if another key met the same one."""
        if not error.row.is_bare:
            return error
        keys = self.accused.setdefault(error.error_code, set())
        keys.add((key.upstream, key.id))
        return error if len(keys) == 1 else GatewayError(ErrorCode.REQUEST_BLOCKED, error.detail)


@dataclass(slots=True, eq=False)
class Upstreams:
    """Makes the images of reserved jobs."""

    _pool: Scheduler
    _caller: UpstreamClient
    _fetcher: ImageDownloader
    _metrics: Metrics
    supply: UpstreamSet
    """Of the current configuration."""
    _policy: JobPolicy
    _clock: Callable[[], float]
    _monotonic: Callable[[], float]
    _served: UpstreamSet = field(init=False)
    """With former ones."""
    _durations: CallDurations = field(init=False)

    def __post_init__(self) -> None:
        self._served, self._durations = self.supply, CallDurations(self._policy.reserve_s)

    def configure(self, supply: UpstreamSet) -> None:
        """Replaces the upstreams for new jobs. Jobs that name a former upstream still find it."""
        self.supply, self._served = supply, supply.after(self.supply)

    def measured_s(self, target: Target, images: int) -> float | None:
        """Returns the usual duration of a call, downloads included; None before this process has made one."""
        return self._durations.measured_s(target, images)

    async def flush(self) -> None:
        await self._caller.flush()

    async def generate(
        self, request: GenerationRequest, reservation: Reservation, context: RequestContext
    ) -> ImageResult:
        """Makes a request's images, and records the outcome of each in its reservation.

        Returns: at least one image; fewer than requested if some were withheld or some calls failed.
        Raises: GatewayError, the most relevant one for the caller.
        """
        job, now = request.job, self._monotonic()
        targets = request.model.in_order(request.targets, job, self._clock())
        ends_at = now + self._policy.deadline_s if context.deadline_s is None else context.deadline_s
        run = JobContext(job, request.model, reservation, context, self._served, now, ends_at)
        tries = RetryState(self._policy.max_attempts, is_patient=len(targets) == 1)
        outcomes = await self._make(run, job.count, targets, tries)
        results = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
        if not results:
            raise most_relevant_error([outcome for outcome in outcomes if isinstance(outcome, GatewayError)])
        pictures = tuple(picture for result in results for picture in result.pictures)
        used = [result.usage for result in results if result.usage]
        usage = sum(used[1:], used[0]) if len(used) == len(results) else None
        return replace(results[0], pictures=pictures, count=job.count, created_s=int(self._clock()), usage=usage)

    async def _make(
        self, run: JobContext, count: int, targets: tuple[PlannedTarget, ...], tries: RetryState
    ) -> list[CallResult]:
        """Makes `count` images at the first available target, in as many calls as needed."""
        at_most = targets[0].capability.max_images_per_call
        if count <= at_most:
            return await self._make_part(run, count, targets, tries)
        parts = split_count(count, at_most)
        runs = [replace(run, job=with_seed_of(run.job, sum(parts[:index]))) for index in range(len(parts))]
        made = await asyncio.gather(
            *(self._make_part(own, part, targets, tries.copy()) for own, part in zip(runs, parts, strict=True)),
            return_exceptions=True,  # a bug in one part must not discard images that other parts already paid for
        )
        return [outcome for part in made for outcome in read_part(part)]

    async def _make_part(
        self, run: JobContext, count: int, targets: tuple[PlannedTarget, ...], tries: RetryState
    ) -> list[CallResult]:
        """Makes the images of one call, retrying with another key or at the next target.

        A retry that would be cut off would be charged for nothing, so it needs the usual time of a call.
        """
        target, *others = targets
        while run.ends_at - self._monotonic() > (
            needed_s := self._durations.usual_s(target, count) if tries.last else 0.0
        ):
            lease = await self._lease(run, target, count, tries, needed_s)
            if isinstance(lease, NoCapacity):
                tries.note_no_key(target, lease)
                break
            tries.asked = lease.asked
            outcome = await self._send(run, lease, target, count, needed_s)
            if outcome is None:
                continue
            if isinstance(outcome, ImageResult):
                return [outcome]
            tries.note_failure(outcome, lease.key)
            if others and tries.may_go_elsewhere(outcome):
                break
            if not tries.may_send_again(outcome):
                return [outcome]
            if is_for_another_target(outcome, others):
                break
            tries.repeated = outcome.error_code
            await asyncio.sleep(outcome.row.delay_s)
        else:
            tries.last = tries.last or GatewayError(ErrorCode.DEADLINE)
        if others:
            self._metrics.fallbacks.labels(target.upstream).inc()
            return await self._make(run, count, tuple(others), tries)
        if tries.soonest is None or tries.is_patient:
            return [tries.decision()]
        tries.is_patient = True
        return await self._make(run, count, (tries.soonest,), tries)

    async def _lease(
        self, run: JobContext, target: PlannedTarget, count: int, tries: RetryState, needed_s: float
    ) -> Lease | NoCapacity:
        """Leases a key. The wait is shorter while other targets are untried, and leaves the time that the call needs.

        A batch line takes only what is idle, and waits for it until its deadline.

        Raises: GatewayError CLIENT_DISCONNECTED, REDIS_UNAVAILABLE.
        """
        upstream, started_s, tenant = target.upstream, self._monotonic(), run.reservation.caller.tenant
        terms, max_wait_s = run.supply.waits[upstream], run.context.max_wait_s
        until = run.started_s + (terms.max_wait_s if max_wait_s is None else max_wait_s)
        if run.context.batch:
            until = run.ends_at
        patience_s = min(until, run.ends_at - max(self._policy.reserve_s, needed_s)) - started_s
        if not tries.is_patient:
            patience_s = min(patience_s, terms.fallback_after_s)
        patience_s, repeat, avoided = max(0.0, patience_s), tries.repeat_at(upstream), tries.avoided_at(upstream)
        lease_request = LeaseRequest(
            *(upstream, target.model, count, tenant.name, tenant.weight, patience_s, tries.asked, repeat, avoided),
            Priority.BATCH if run.context.batch else Priority.INTERACTIVE,
            f"{tenant.name}:{run.context.id}" if run.context.is_watched else "",
        )
        try:
            found = await self._pool.lease(lease_request, run.context.disconnected.wait)
        finally:
            ended_s = self._monotonic()
            run.context.trace.waits.append((started_s, ended_s))
            self._metrics.account_wait_seconds.labels(upstream).observe(ended_s - started_s)
        if tries.repeated and isinstance(found, Lease):
            self._metrics.retries.labels(upstream, tries.repeated.value).inc()
            tries.repeated = None
        return found

    async def _send(
        self, run: JobContext, lease: Lease, target: PlannedTarget, count: int, needed_s: float
    ) -> CallResult | None:
        """Makes one call, from its record in the reservation to its last image; None if it is too late to send it."""
        entry, key, context, is_lease_used, copied_bytes = OpenCall(), lease.key, run.context, False, 0
        is_base64 = run.job.delivery is ResponseFormat.BASE64 and target.capability.supports_base64
        asked = ResponseFormat.BASE64 if is_base64 else ResponseFormat.URL
        try:
            if any(len(keys) > 1 for keys in run.accused.values()):
                return GatewayError(ErrorCode.REQUEST_BLOCKED)
            plan = CallPlan(target.model, count, target.shape, asked)
            provider = run.supply.endpoints[target.upstream].provider
            request = provider.build_call(target.reduce(run.job), plan, key.secret)
            context.memory.note(request.copied_bytes)
            copied_bytes = request.copied_bytes
            if context.disconnected.is_set():
                return GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            entry = await run.reservation.mark_sent(key.upstream, key.account, count)
            with entry:
                started_s = self._monotonic()
                if started_s - lease.taken_s > _STALE_S or run.ends_at - started_s <= needed_s:
                    return None
                attempt = context.trace.begin(key.upstream, key.account, key.secret.fingerprint, count, started_s)
                price, position = self._price(run, target, count), context.trace.context
                headers = position.headers(attempt.span_id) if position else {}
                is_repeatable = context.is_keyed and count == context.asked
                order = UpstreamCall(
                    *(request, asked, count, price, run.job, headers, entry, context.memory),
                    *(target.shape.made, run.reservation, context.id, is_repeatable),
                )
                is_lease_used = True
                return await self._call(run, lease, target, order, attempt)
        except GatewayError as error:
            return error
        finally:
            context.memory.note(-copied_bytes)
            if not is_lease_used:
                await self._caller.release_unused(lease)
            if entry.is_free:
                await run.reservation.revert_order(key.upstream, key.account, count)

    def _price(self, run: JobContext, target: PlannedTarget, count: int) -> CallPrice:
        tariff = rate_at(run.model.prices_at(target), run.reservation.price_since_s)
        cost = rate_at(target.costs, self._clock()) if target.costs else None
        return CallPrice(tariff, target.planned(run.job, count), cost)

    async def _call(
        self, run: JobContext, lease: Lease, target: PlannedTarget, order: UpstreamCall, attempt: Attempt
    ) -> CallResult:
        endpoint = run.supply.endpoints[target.upstream]
        made: CallResult
        try:
            remaining_s = run.ends_at - attempt.started_s
            outcome = await self._caller.call(endpoint, lease, order, remaining_s=remaining_s)
            if isinstance(outcome, GatewayError):
                made = run.judge(outcome, lease.key)
                attempt.was_sent = outcome.row.outcome is not Outcome.NOT_SENT
            else:
                made = await self._receive(run, target, order, outcome)
            attempt.error_code = made.error_code if isinstance(made, GatewayError) else None
        finally:
            attempt.ended_s = self._monotonic()
        if isinstance(made, ImageResult):
            self._durations.note(target, order.images, attempt.ended_s - attempt.started_s)
        return made

    async def _receive(
        self, run: JobContext, target: PlannedTarget, order: UpstreamCall, reply: ImageReply
    ) -> CallResult:
        pictures, endpoint, delivery = reply.pictures, run.supply.endpoints[target.upstream], run.job.delivery
        if any(isinstance(picture, ImageUrl) for picture in pictures) or reply.parts > 1:
            if run.model.links.stores(delivery, is_emulated=bool(target.emulated)):
                delivery = ResponseFormat.BOTH  # the provider's link is the client's if the image cannot be stored
            remaining_s, memory = max(0.0, run.ends_at - self._monotonic()), run.context.memory
            pictures = await self._fetcher.deliver(
                *(pictures, delivery, endpoint.links, remaining_s, memory, endpoint.proxies),
                to_cut=reply.to_cut(order.images),
            )
        withheld = max(0, min(order.images - reply.images, reply.failed or 0))  # at most as many as are missing
        order.entry.share.deliver(order.images, len(pictures), withheld, order.price.bill(reply, len(pictures)))
        if not pictures:
            return GatewayError(ErrorCode.DOWNLOAD_FAILED, f"{len(reply.pictures)} links could not be fetched")
        tenant = run.reservation.caller.tenant.current_name
        self._metrics.images.labels(run.model.id, tenant, target.upstream).inc(len(pictures))
        made, background = reply.made or target.shape.made, run.job.background or "opaque"
        return ImageResult(pictures, made, order.images, reply.id, usage=reply.usage, background=background)
