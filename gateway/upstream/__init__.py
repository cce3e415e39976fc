"""Where a job is made.

It is split into calls, each sent with a leased key, judged by the table, and sent again only where the table says that
it is free. Invariant: no call is sent before the job's ticket says so, and each ends in the ticket's tally.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from gateway.domain.billing import Share, price_at
from gateway.domain.faults import Fault, GatewayError, Outcome, Retry, Scope
from gateway.domain.images import (
    Delivery,
    ImageJob,
    ImageReply,
    ImageResult,
    Picture,
    Shape,
    SizePolicy,
    Trace,
    plan_shape,
    split_count,
    with_seed_of,
)
from gateway.domain.keys import WaitTerms
from gateway.domain.models import Model, Target
from gateway.stores.admission import Admission
from gateway.stores.pool import Demand, KeyPool, Lease, NoKey
from gateway.stores.tickets import Ticket
from gateway.upstream.calls import Caller, Endpoint, Order
from gateway.upstream.results import ResultFetcher
from gateway.upstream.supply import Supply
from gateway.upstream.tries import Tries

_LOG = structlog.get_logger("imagegate.upstream")

_STALE_S: Final = 5.0
"""A lease that was not used for so long is given back: its account's minute has moved on."""

__all__ = ["Caller", "Client", "Endpoint", "Policy", "ResultFetcher", "Upstreams"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's limits on one request."""

    deadline_s: float
    """For the whole request, over all attempts."""
    max_attempts: int
    size_policy: SizePolicy


class Client(Protocol):
    """Who waits for the images."""

    async def has_left(self) -> bool:
        """Whether nobody waits any more."""

    async def left(self) -> None:
        """Returns when nobody waits any more."""


@dataclass(slots=True)
class _Run:
    """One job under way, with the upstreams as they were when it began."""

    job: ImageJob
    model: Model
    ticket: Ticket
    trace: Trace
    client: Client
    endpoints: Mapping[str, Endpoint]
    waits: Mapping[str, WaitTerms]
    ends_at: float
    """Monotonic."""
    waits_until: float | None
    """Monotonic; where the request itself says how long it waits for an account."""


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
        self._admission = admission
        self._caller = caller
        self._fetcher = fetcher
        self._supply = supply
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic

    def configure(self, supply: Supply) -> None:
        """Use other upstreams from the next job on."""
        self._supply = supply

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Those of the configuration in force."""
        return self._supply.endpoints

    async def generate(
        self, job: ImageJob, model: Model, ticket: Ticket, trace: Trace, client: Client, max_wait_s: float | None = None
    ) -> ImageResult:
        """Make the job's images, and tell the ticket what became of each.

        `max_wait_s` for an account, in the place of the upstreams' own.
        Returns: at least one picture; fewer than asked where some were withheld or some calls failed.
        Raises: GatewayError with the fault that matters most to the caller.
        """
        targets = model.targets_for(job, self._policy.size_policy)
        now, supply = self._monotonic(), self._supply
        waits_until = None if max_wait_s is None else now + max_wait_s
        ends_at = now + self._policy.deadline_s
        run = _Run(job, model, ticket, trace, client, supply.endpoints, supply.waits, ends_at, waits_until)
        outcomes = await self._make(run, job.count, targets, Tries(self._policy.max_attempts))
        replies = [outcome for outcome in outcomes if isinstance(outcome, _Made)]
        if not replies:
            raise _worst([outcome for outcome in outcomes if isinstance(outcome, GatewayError)])
        pictures = tuple(picture for reply in replies for picture in reply.pictures)
        return ImageResult(pictures, replies[0].shape.made, job.count, replies[0].id)

    async def _make(self, run: _Run, count: int, targets: tuple[Target, ...], tries: Tries) -> list["_Outcome"]:
        """`count` images at the first target that can, in as many calls as it needs."""
        parts = split_count(count, targets[0].capability.max_images_per_call)
        if len(parts) == 1:
            return await self._make_part(run, count, targets, tries)
        runs = [replace(run, job=with_seed_of(run.job, sum(parts[:index]))) for index in range(len(parts))]
        made = await asyncio.gather(
            *(
                self._make_part(own, part, targets, replace(tries, avoided=set(tries.avoided)))
                for own, part in zip(runs, parts, strict=True)
            ),
            return_exceptions=True,  # a mistake of ours in one part must not throw away what the others bought
        )
        return [outcome for part in made for outcome in _outcomes(part)]

    async def _make_part(self, run: _Run, count: int, targets: tuple[Target, ...], tries: Tries) -> list["_Outcome"]:
        """What one call can make: here, with another key, or at the next target."""
        target, *others = targets
        while True:
            lease = await self._lease(run, target, count, tries, is_last=not others)
            if isinstance(lease, GatewayError):
                return [lease]
            if isinstance(lease, NoKey):
                tries.note_no_key(lease)
                break
            tries.asked = lease.asked
            outcome = await self._send(run, lease, target, count)
            if outcome is None:
                continue
            if isinstance(outcome, _Made):
                return [outcome]
            tries.note_failure(outcome, lease.key)
            if others and tries.may_go_elsewhere(outcome):
                break
            if not tries.may_send_again(outcome):
                return [outcome]
            if _is_for_another_target(outcome, others):
                break
        if others:
            return await self._make(run, count, tuple(others), tries)
        return [tries.verdict()]

    async def _lease(
        self, run: _Run, target: Target, count: int, tries: Tries, *, is_last: bool
    ) -> Lease | NoKey | GatewayError:
        """A failure is an outcome: other parts of the job may have been made already."""
        started, tenant = self._monotonic(), run.ticket.caller.tenant
        demand = Demand(
            target.upstream,
            target.model,
            count,
            tenant.name,
            tenant.weight,
            self._patience_s(run, target, is_last=is_last),
            tries.asked,
            tries.repeat_at(target.upstream),
            tries.avoided_at(target.upstream),
        )
        try:
            return await self._pool.lease(demand, run.client.left)
        except GatewayError as error:
            return error
        finally:
            run.trace.waits.append((started, self._monotonic()))

    def _patience_s(self, run: _Run, target: Target, *, is_last: bool) -> float:
        """How long a part may wait for an account here: less where it can go on to another target."""
        now, terms = self._monotonic(), run.waits[target.upstream]
        patience_s = terms.max_wait_s if run.waits_until is None else run.waits_until - now
        if not is_last:
            patience_s = min(patience_s, terms.spill_after_s)
        return max(0.0, min(patience_s, run.ends_at - now))

    async def _send(self, run: _Run, lease: Lease, target: Target, count: int) -> "_Outcome | None":
        """One call, from the note in the ticket to the last picture; None where the lease came too late to be used."""
        asked = run.job.delivery if target.capability.answers_base64 else Delivery.URL
        endpoint = run.endpoints[target.upstream]
        try:
            body = endpoint.dialect.build_call(run.job, count, target.model, self._shape(run, target), asked)
            share = await self._open(run, lease, count)
        except GatewayError as error:
            await self._caller.give_back(lease)
            return error
        except BaseException:
            await self._caller.give_back(lease)
            raise
        started = self._monotonic()
        if started - lease.taken_s > _STALE_S:
            await self._caller.give_back(lease)
            await self._note_failure(run, lease, share, count, GatewayError(Fault.CALL_NOT_SENT))
            return None
        run.trace.key_fingerprints.append(lease.key.secret.fingerprint)
        order = Order(body, asked, count, price_at(run.model.prices, self._clock()))
        outcome = await self._caller.call(endpoint, lease, order, remaining_s=max(0.0, run.ends_at - started))
        made: _Outcome
        if isinstance(outcome, GatewayError):
            made = outcome
            if outcome.row.outcome is Outcome.NOT_SENT:
                run.trace.key_fingerprints.remove(lease.key.secret.fingerprint)
            await self._note_failure(run, lease, share, count, outcome)
        else:
            made = await self._receive(run, target, share, count, outcome)
        run.trace.calls.append((started, self._monotonic()))
        return made

    async def _open(self, run: _Run, lease: Lease, count: int) -> Share:
        """The last moment at which a call may still be left out. Raises: GatewayError, and nothing may be sent."""
        if run.ends_at <= self._monotonic():
            raise GatewayError(Fault.DEADLINE)
        if await run.client.has_left():
            raise GatewayError(Fault.CLIENT_LEFT)
        return await self._admission.open(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _note_failure(self, run: _Run, lease: Lease, share: Share, count: int, error: GatewayError) -> None:
        if share.fail(count, error.row):
            await self._admission.free(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _receive(self, run: _Run, target: Target, share: Share, count: int, reply: ImageReply) -> "_Outcome":
        """The pictures as the caller wants them: never more than were ordered."""
        endpoint, remaining_s = run.endpoints[target.upstream], max(0.0, run.ends_at - self._monotonic())
        made = reply.pictures[:count]
        pictures = await self._fetcher.deliver(made, run.job.delivery, endpoint.links, remaining_s)
        share.deliver(count, len(pictures), reply.withheld(count))
        if not pictures:
            return GatewayError(Fault.RESULT_LOST, f"{len(made)} result links could not be fetched")
        self._caller.count_images(len(pictures), run.model.id, run.ticket.caller.tenant.name, endpoint.name)
        return _Made(pictures, self._shape(run, target), reply.id)

    def _shape(self, run: _Run, target: Target) -> Shape:
        shape = plan_shape(run.job, target.capability, self._policy.size_policy)
        assert shape is not None  # the target was chosen because it can
        return shape


@dataclass(frozen=True, slots=True)
class _Made:
    """One call's delivered pictures."""

    pictures: tuple[Picture, ...]
    shape: Shape
    id: str


_Outcome = _Made | GatewayError


def _is_for_another_target(error: GatewayError, others: list[Target]) -> bool:
    """Whether what may be sent again is not to be sent to this upstream: it cannot serve, or seems ill."""
    if error.row.scope is Scope.UPSTREAM and error.row.retry is Retry.FREELY:
        return True
    return bool(others) and error.row.ails_upstream


def _outcomes(part: list[_Outcome] | BaseException) -> list[_Outcome]:
    if isinstance(part, Exception):
        _LOG.error("unexpected_failure", exc_info=part)
        return [GatewayError(Fault.INTERNAL, type(part).__name__)]
    if isinstance(part, BaseException):
        raise part
    return part


_WEIGHT = {Outcome.UNKNOWN: 0, Outcome.DELIVERED: 1, Outcome.REFUSED: 2, Outcome.NOT_SENT: 3}


def _worst(errors: list[GatewayError]) -> GatewayError:
    """The one that the caller must know: whatever may have cost money first, then what no retry can mend."""
    return min(errors, key=lambda error: (_WEIGHT[error.row.outcome], error.row.may_client_retry))
