"""Runs jobs: splits them into calls, leases a key for each, sends it, and retries what is known to be free.

Invariant: the reservation records each call before it is sent, and its outcome afterwards.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from gateway.domain.billing import OpenCall, price_at
from gateway.domain.catalog import PlannedTarget
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, ImageReply, ImageResult, ResponseFormat, split_count, with_seed_of
from gateway.domain.tracing import Attempt
from gateway.generation.calls import UpstreamCall, UpstreamClient
from gateway.generation.context import RequestContext
from gateway.generation.downloads import ImageDownloader
from gateway.generation.retries import (
    CallResult,
    CallSuccess,
    RetryState,
    is_for_another_target,
    most_relevant_error,
    read_part,
)
from gateway.generation.run import CallDurations, GenerationRequest, JobContext, JobPolicy
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.metering.reservations import Reservation
from gateway.observability.metrics import Metrics
from gateway.scheduler import Lease, LeaseRequest, NoCapacity, Scheduler

_STALE_S: Final = 5.0
"""A lease unused for this long is released, because its account's minute has moved on."""

__all__ = ["ImageDownloader", "JobPolicy", "UpstreamClient", "UpstreamEndpoint", "Upstreams"]


class Upstreams:
    """Makes the images of reserved jobs."""

    def __init__(
        self,
        pool: Scheduler,
        caller: UpstreamClient,
        fetcher: ImageDownloader,
        metrics: Metrics,
        supply: UpstreamSet,
        policy: JobPolicy,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._caller = caller
        self._fetcher = fetcher
        self._metrics = metrics
        self._supply = self._served = supply
        self._policy = policy
        self._durations = CallDurations(policy.reserve_s)
        self._clock = clock
        self._monotonic = monotonic

    def configure(self, supply: UpstreamSet) -> None:
        """Replaces the upstreams for new jobs. Jobs that name a former upstream still find it."""
        self._supply, self._served = supply, supply.after(self._supply)

    @property
    def endpoints(self) -> Mapping[str, UpstreamEndpoint]:
        """Returns the upstreams of the current configuration."""
        return self._supply.endpoints

    async def flush(self) -> None:
        """Waits until every call is reported to the scheduler."""
        await self._caller.flush()

    async def generate(
        self, request: GenerationRequest, reservation: Reservation, context: RequestContext
    ) -> ImageResult:
        """Makes a request's images, and records the outcome of each in its reservation.

        Returns: at least one image; fewer than requested if some were withheld or some calls failed.
        Raises: GatewayError, the most relevant one for the caller.
        """
        job, targets, now, supply = request.job, request.targets, self._monotonic(), self._served
        ends_at = now + self._policy.deadline_s if context.deadline_s is None else context.deadline_s
        run = JobContext(job, request.model, reservation, context, supply.endpoints, supply.waits, now, ends_at)
        tries = RetryState(self._policy.max_attempts, is_patient=len(targets) == 1)
        outcomes = await self._make(run, job.count, targets, tries)
        replies = [outcome for outcome in outcomes if isinstance(outcome, CallSuccess)]
        if not replies:
            raise most_relevant_error([outcome for outcome in outcomes if isinstance(outcome, GatewayError)])
        pictures = tuple(picture for reply in replies for picture in reply.pictures)
        return ImageResult(pictures, replies[0].shape.made, job.count, replies[0].id)

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
        """Makes the images of one call, retrying with another key or at the next target."""
        target, *others = targets
        while run.ends_at - self._monotonic() > (needed_s := self._needed_s(target, count, tries)):
            lease = await self._lease(run, target, count, tries, needed_s)
            if isinstance(lease, GatewayError):
                return [lease]
            if isinstance(lease, NoCapacity):
                tries.note_no_key(target, lease)
                break
            tries.asked = lease.asked
            outcome = await self._send(run, lease, target, count, needed_s)
            if outcome is None:
                continue
            if isinstance(outcome, CallSuccess):
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
        return await self._wait_longer(run, count, tries)

    async def _wait_longer(self, run: JobContext, count: int, tries: RetryState) -> list[CallResult]:
        """Waits at the target that has capacity first, once every target has been tried."""
        if tries.soonest is None or tries.is_patient:
            return [tries.decision()]
        tries.is_patient = True
        return await self._make(run, count, (tries.soonest,), tries)

    async def _lease(
        self, run: JobContext, target: PlannedTarget, count: int, tries: RetryState, needed_s: float
    ) -> Lease | NoCapacity | GatewayError:
        """Leases a key. A failure is returned, because other parts of the job may already be done."""
        started, tenant = self._monotonic(), run.reservation.caller.tenant
        lease_request = LeaseRequest(
            target.upstream,
            target.model,
            count,
            tenant.name,
            tenant.weight,
            self._patience_s(run, target, tries, needed_s),
            tries.asked,
            tries.repeat_at(target.upstream),
            tries.avoided_at(target.upstream),
        )
        try:
            found = await self._pool.lease(lease_request, run.context.disconnected.wait)
        except GatewayError as error:
            return error
        else:
            if tries.repeated and isinstance(found, Lease):
                self._metrics.retries.labels(target.upstream, tries.repeated.value).inc()
                tries.repeated = None
            return found
        finally:
            ended = self._monotonic()
            run.context.trace.waits.append((started, ended))
            self._metrics.account_wait_seconds.labels(target.upstream).observe(ended - started)

    def _needed_s(self, target: PlannedTarget, count: int, tries: RetryState) -> float:
        """Returns the time that must remain to send a call: a retry that is cut off would be charged for nothing."""
        return self._durations.usual_s(target, count) if tries.last else 0.0

    def _patience_s(self, run: JobContext, target: PlannedTarget, tries: RetryState, needed_s: float) -> float:
        """Returns the maximum wait for an account, which is shorter while other targets are untried.

        No wait uses the time that the call itself needs.
        """
        now, terms, max_wait_s = self._monotonic(), run.waits[target.upstream], run.context.max_wait_s
        until = run.started_s + (terms.max_wait_s if max_wait_s is None else max_wait_s)
        patience_s = min(until, run.ends_at - max(self._policy.reserve_s, needed_s)) - now
        return max(0.0, patience_s if tries.is_patient else min(patience_s, terms.fallback_after_s))

    async def _send(
        self, run: JobContext, lease: Lease, target: PlannedTarget, count: int, needed_s: float
    ) -> CallResult | None:
        """Makes one call, from its record in the reservation to its last image; None if it is too late to send it."""
        asked = run.job.delivery if target.capability.supports_base64 else ResponseFormat.URL
        price, is_lease_used = price_at(run.model.prices, self._clock()), False
        entry, key, context = OpenCall(), lease.key, run.context
        try:
            if run.bare.is_blocked:
                raise GatewayError(ErrorCode.REQUEST_BLOCKED)  # noqa: TRY301
            provider = run.endpoints[target.upstream].provider
            plan = CallPlan(target.model, count, target.shape, asked)
            request = provider.build_call(run.job, plan, key.secret)
            if context.disconnected.is_set():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)  # noqa: TRY301
            entry = await run.reservation.mark_sent(key.upstream, key.account, count)
            with entry:
                started_s = self._monotonic()
                if started_s - lease.taken_s > _STALE_S or run.ends_at - started_s <= needed_s:
                    return None
                attempt = context.trace.begin(key.upstream, key.account, key.secret.fingerprint, count, started_s)
                headers = context.trace.headers_of(attempt)
                order = UpstreamCall(request, asked, count, price, run.job, headers, entry, context.memory)
                is_lease_used = True
                return await self._call_and_record(run, lease, target, order, attempt)
        except GatewayError as error:
            return error
        finally:
            if not is_lease_used:
                await self._caller.release_unused(lease)
            if entry.is_free:
                await run.reservation.revert_order(key.upstream, key.account, count)

    async def _call_and_record(
        self, run: JobContext, lease: Lease, target: PlannedTarget, order: UpstreamCall, attempt: Attempt
    ) -> CallResult:
        """Sends a call and receives its images."""
        made: CallResult
        try:
            endpoint, remaining_s = run.endpoints[target.upstream], run.ends_at - attempt.started_s
            outcome = await self._caller.call(endpoint, lease, order, remaining_s=remaining_s)
            if isinstance(outcome, GatewayError):
                made = run.bare.judge(outcome, lease.key)
                attempt.was_sent = outcome.row.outcome is not Outcome.NOT_SENT
            else:
                made = await self._receive(run, target, order, outcome)
            attempt.error_code = made.error_code if isinstance(made, GatewayError) else None
        finally:
            attempt.ended_s = self._monotonic()
        if isinstance(made, CallSuccess):
            self._durations.note(target, order.images, attempt.ended_s - attempt.started_s)
        return made

    async def _receive(
        self, run: JobContext, target: PlannedTarget, order: UpstreamCall, reply: ImageReply
    ) -> CallResult:
        """Converts a reply to images in the requested format."""
        endpoint, remaining_s = run.endpoints[target.upstream], max(0.0, run.ends_at - self._monotonic())
        made, memory = reply.pictures, run.context.memory
        pictures = await self._fetcher.deliver(made, run.job.delivery, endpoint.links, remaining_s, memory)
        withheld = max(0, min(order.images - len(made), reply.failed or 0))  # at most as many as are missing
        order.entry.share.deliver(order.images, len(pictures), withheld)
        if not pictures:
            return GatewayError(ErrorCode.DOWNLOAD_FAILED, f"{len(made)} result links could not be fetched")
        tenant = run.reservation.caller.tenant.name
        self._metrics.images.labels(run.model.id, tenant, endpoint.name).inc(len(pictures))
        return CallSuccess(pictures, target.shape, reply.id)
