"""Where a job is made.

It is split into calls, each sent with a leased key, judged by the table, and sent again only where the table says that
it is free. Invariant: no call is sent before the job's ticket says so, and each ends in the ticket's tally.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from gateway.domain.billing import OpenOrder, Share
from gateway.domain.faults import Fault, GatewayError, Outcome
from gateway.domain.images import (
    CallPlan,
    Delivery,
    ImageJob,
    ImageReply,
    ImageResult,
    plan_shape,
    split_count,
    with_seed_of,
)
from gateway.domain.models import Model, Target
from gateway.domain.pricing import price_at
from gateway.domain.sizes import Shape
from gateway.domain.tenants import Tenant
from gateway.domain.trace import Attempt, Trace
from gateway.memory import ByteAccount
from gateway.stores.admission import Admission
from gateway.stores.pool import Demand, KeyPool, Lease, NoKey
from gateway.stores.tickets import Ticket
from gateway.upstream.attempts import Ending, Made, is_for_another_target, read_part, worst
from gateway.upstream.calls import Caller, Order
from gateway.upstream.durations import CallDurations
from gateway.upstream.endpoints import Endpoint
from gateway.upstream.foresight import Early, Foresight
from gateway.upstream.results import ResultFetcher
from gateway.upstream.runs import Client, Policy, Run
from gateway.upstream.supply import Supply
from gateway.upstream.tries import Tries

_LOG = structlog.get_logger("imagegate.upstream")

_STALE_S: Final = 5.0
"""A lease that was not used for so long is given back: its account's minute has moved on."""

__all__ = ["Caller", "Client", "Endpoint", "Policy", "ResultFetcher", "Upstreams"]


class Upstreams:
    """The scheduler of upstream calls."""

    def __init__(
        self,
        pool: KeyPool,
        admission: Admission,
        caller: Caller,
        fetcher: ResultFetcher,
        supply: Supply,
        policy: Policy,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._foresight = Foresight(pool, monotonic)
        self._admission = admission
        self._caller = caller
        self._fetcher = fetcher
        self._supply = self._served = supply
        self._policy = policy
        self._durations = CallDurations(policy.reserve_s)
        self._clock = clock
        self._monotonic = monotonic

    def configure(self, supply: Supply) -> None:
        """Use other upstreams from the next job on; those of before serve jobs that name them still."""
        self._supply, self._served = supply, supply.after(self._supply)

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Those of the configuration in force."""
        return self._supply.endpoints

    def foresee(self, job: ImageJob, model: Model, tenant: Tenant) -> Early | None:
        """Ask for a lease before the job is admitted, where one call makes it all. To be dropped when the job ends."""
        target = next(iter(model.targets_for(job, self._policy.size_policy)), None)
        if target is None or job.count > target.capability.max_images_per_call:
            return None
        return self._foresight.ask(Demand(target.upstream, target.model, job.count, tenant.name, tenant.weight, 0.0))

    async def flush(self) -> None:
        """Wait until the pool has been told of every call."""
        await self._caller.flush()

    async def generate(
        self,
        job: ImageJob,
        model: Model,
        ticket: Ticket,
        trace: Trace,
        client: Client,
        max_wait_s: float | None = None,
        early: Early | None = None,
        memory: ByteAccount | None = None,
    ) -> ImageResult:
        """Make the job's images, and tell the ticket what became of each.

        `max_wait_s` for an account, in the place of the upstreams' own. `early`: what `foresee` gave. `memory` counts.
        Returns: at least one picture; fewer than asked where some were withheld or some calls failed.
        Raises: GatewayError with the fault that matters most to the caller.
        """
        targets = model.targets_for(job, self._policy.size_policy)
        now, supply = self._monotonic(), self._served
        waits_until = None if max_wait_s is None else now + max_wait_s
        ends_at = now + self._policy.deadline_s
        upstreams = (supply.endpoints, supply.waits)
        run = Run(
            job, model, ticket, trace, client, memory or ByteAccount(), *upstreams, now, ends_at, waits_until, early
        )
        tries = Tries(self._policy.max_attempts, is_patient=len(targets) == 1)
        outcomes = await self._make(run, job.count, targets, tries)
        replies = [outcome for outcome in outcomes if isinstance(outcome, Made)]
        if not replies:
            raise worst([outcome for outcome in outcomes if isinstance(outcome, GatewayError)])
        pictures = tuple(picture for reply in replies for picture in reply.pictures)
        return ImageResult(pictures, replies[0].shape.made, job.count, replies[0].id)

    async def _make(self, run: Run, count: int, targets: tuple[Target, ...], tries: Tries) -> list[Ending]:
        """`count` images at the first target that can, in as many calls as it needs."""
        parts = split_count(count, targets[0].capability.max_images_per_call)
        if len(parts) == 1:
            return await self._make_part(run, count, targets, tries)
        runs = [replace(run, job=with_seed_of(run.job, sum(parts[:index]))) for index in range(len(parts))]
        made = await asyncio.gather(
            *(self._make_part(own, part, targets, tries.copy()) for own, part in zip(runs, parts, strict=True)),
            return_exceptions=True,  # a mistake of ours in one part must not throw away what the others bought
        )
        return [outcome for part in made for outcome in read_part(part)]

    async def _make_part(self, run: Run, count: int, targets: tuple[Target, ...], tries: Tries) -> list[Ending]:
        """What one call can make: here, with another key, or at the next target."""
        target, *others = targets
        while run.ends_at - self._monotonic() > (needed_s := self._needed_s(target, count, tries)):
            lease = await self._lease(run, target, count, tries)
            if isinstance(lease, GatewayError):
                return [lease]
            if isinstance(lease, NoKey):
                tries.note_no_key(target, lease)
                break
            tries.asked = lease.asked
            outcome = await self._send(run, lease, target, count, needed_s)
            if outcome is None:
                continue
            if isinstance(outcome, Made):
                return [outcome]
            tries.note_failure(outcome, lease.key)
            if others and tries.may_go_elsewhere(outcome):
                break
            if not tries.may_send_again(outcome):
                return [outcome]
            if is_for_another_target(outcome, others):
                break
            tries.repeated = outcome.fault
            await asyncio.sleep(outcome.row.delay_s)
        else:
            tries.last = tries.last or GatewayError(Fault.DEADLINE)
        if others:
            self._caller.count_spill(target.upstream)
            return await self._make(run, count, tuple(others), tries)
        return await self._wait_longer(run, count, tries)

    async def _wait_longer(self, run: Run, count: int, tries: Tries) -> list[Ending]:
        """Every target has been asked: wait where there will be room first."""
        if tries.soonest is None or tries.is_patient:
            return [tries.verdict()]
        tries.is_patient = True
        return await self._make(run, count, (tries.soonest,), tries)

    async def _lease(self, run: Run, target: Target, count: int, tries: Tries) -> Lease | NoKey | GatewayError:
        """A failure is an outcome: other parts of the job may have been made already."""
        if lease := await self._take_early(run, target):
            return lease
        started, tenant = self._monotonic(), run.ticket.caller.tenant
        demand = Demand(
            target.upstream,
            target.model,
            count,
            tenant.name,
            tenant.weight,
            self._patience_s(run, target, count, tries),
            tries.asked,
            tries.repeat_at(target.upstream),
            tries.avoided_at(target.upstream),
        )
        try:
            found = await self._pool.lease(demand, run.client.left)
        except GatewayError as error:
            return error
        else:
            if tries.repeated and isinstance(found, Lease):
                self._caller.count_retry(target.upstream, tries.repeated)
                tries.repeated = None
            return found
        finally:
            run.trace.waits.append((started, self._monotonic()))
            self._caller.count_wait(self._monotonic() - started, target.upstream)

    async def _take_early(self, run: Run, target: Target) -> Lease | None:
        """The lease that was asked for beside the admission, once."""
        early, run.early = run.early, None
        if early is None or early.upstream != target.upstream:
            return None
        lease = await early.take()
        if lease:
            run.trace.waits.append((self._monotonic(), self._monotonic()))
            self._caller.count_wait(0.0, target.upstream)
        return lease

    def _needed_s(self, target: Target, count: int, tries: Tries) -> float:
        """The time that must be left to send a call: a repetition that is cut off would be charged for nothing."""
        return self._durations.usual_s(target, count) if tries.last else 0.0

    def _patience_s(self, run: Run, target: Target, count: int, tries: Tries) -> float:
        """How long a part may wait for an account here: less while other targets have not been asked.

        No wait takes the time that the call itself needs.
        """
        now, terms = self._monotonic(), run.waits[target.upstream]
        until = run.started_s + terms.max_wait_s if run.waits_until is None else run.waits_until
        reserve_s = max(self._policy.reserve_s, self._needed_s(target, count, tries))
        patience_s = min(until, run.ends_at - reserve_s) - now
        return max(0.0, patience_s if tries.is_patient else min(patience_s, terms.spill_after_s))

    async def _send(self, run: Run, lease: Lease, target: Target, count: int, needed_s: float) -> Ending | None:
        """One call, from the note in the ticket to the last picture; None if it came too late to be sent."""
        asked = run.job.delivery if target.capability.answers_base64 else Delivery.URL
        price, is_lease_used = price_at(run.model.prices, self._clock()), False
        entry = OpenOrder()
        try:
            run.bare.refuse_blocked()
            dialect = run.endpoints[target.upstream].dialect
            plan = CallPlan(target.model, count, self._shape(run, target), asked)
            request = dialect.build_call(run.job, plan, lease.key.secret)
            entry = OpenOrder(await self._open(run, lease, count), count)
            with entry:
                started_s = self._monotonic()
                if started_s - lease.taken_s > _STALE_S or run.ends_at - started_s <= needed_s:
                    return None
                key = lease.key
                attempt = run.trace.begin(key.upstream, key.account, key.secret.fingerprint, count, started_s)
                order = Order(request, asked, count, price, run.job, run.trace.headers_of(attempt), entry, run.memory)
                is_lease_used = True
                return await self._buy(run, lease, target, order, attempt)
        except GatewayError as error:
            return error
        finally:
            if not is_lease_used:
                await self._caller.give_back(lease)
            if entry.is_free:
                await self._admission.free(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _buy(self, run: Run, lease: Lease, target: Target, order: Order, attempt: Attempt) -> Ending:
        """The call and its pictures."""
        made: Ending
        try:
            endpoint, remaining_s = run.endpoints[target.upstream], run.ends_at - attempt.started_s
            outcome = await self._caller.call(endpoint, lease, order, remaining_s=remaining_s)
            if isinstance(outcome, GatewayError):
                made = run.bare.judge(outcome, lease.key)
                attempt.was_sent = outcome.row.outcome is not Outcome.NOT_SENT
            else:
                made = await self._receive(run, target, order, outcome)
            attempt.fault = made.fault if isinstance(made, GatewayError) else None
        finally:
            attempt.ended_s = self._monotonic()
        if isinstance(made, Made):
            self._durations.note(target, order.images, attempt.ended_s - attempt.started_s)
        return made

    async def _open(self, run: Run, lease: Lease, count: int) -> Share:
        """The last moment at which a client that has left costs nothing. Raises: GatewayError."""
        if await run.client.has_left():
            raise GatewayError(Fault.CLIENT_LEFT)
        return await self._admission.open(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _receive(self, run: Run, target: Target, order: Order, reply: ImageReply) -> Ending:
        """The pictures as the caller wants them."""
        endpoint, remaining_s = run.endpoints[target.upstream], max(0.0, run.ends_at - self._monotonic())
        made = reply.pictures
        pictures = await self._fetcher.deliver(made, run.job.delivery, endpoint.links, remaining_s, run.memory)
        order.entry.deliver(len(pictures), reply.withheld(order.images))
        if not pictures:
            return GatewayError(Fault.RESULT_LOST, f"{len(made)} result links could not be fetched")
        self._caller.count_images(len(pictures), run.model.id, run.ticket.caller.tenant.name, endpoint.name)
        return Made(pictures, self._shape(run, target), reply.id)

    def _shape(self, run: Run, target: Target) -> Shape:
        shape = plan_shape(run.job, target.capability, self._policy.size_policy)
        assert shape is not None  # the target was chosen because it can
        return shape
