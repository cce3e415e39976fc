"""Where a job is made.

It is split into calls, each sent with a leased key, judged by the table, and sent again only where the table says that
it is free. Invariant: no call is sent before the job's ticket says so, and each ends in the ticket's tally.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from gateway.domain.billing import Share
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
from gateway.domain.keys import UpstreamKey
from gateway.domain.models import Model, Target
from gateway.stores.admission import Admission
from gateway.stores.keypool import KeyPool, Lease, NoKey
from gateway.stores.tickets import Ticket
from gateway.upstream.calls import Caller, Endpoint
from gateway.upstream.results import ResultFetcher

_LOG = structlog.get_logger("imagegate.upstream")

HasLeft = Callable[[], Awaitable[bool]]
"""Whether nobody waits for the images any more."""

__all__ = ["Caller", "Endpoint", "Policy", "ResultFetcher", "Upstreams"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's limits on one request."""

    deadline_s: float
    """For the whole request, over all attempts."""
    max_attempts: int
    size_policy: SizePolicy


@dataclass(slots=True)
class _Run:
    """One job under way."""

    job: ImageJob
    model: Model
    ticket: Ticket
    trace: Trace
    ends_at: float
    has_left: "HasLeft"


@dataclass(slots=True)
class _Tries:
    """What one part of a job may still try."""

    left: int
    avoided: set[tuple[str, str]] = field(default_factory=set)
    """(upstream, key id or "ACCOUNT/")."""
    last: GatewayError | None = None
    has_retried_once: bool = False
    shortest_wait_s: float | None = None
    is_busy: bool = False

    def note_failure(self, error: GatewayError, key: UpstreamKey) -> None:
        self.last = error
        if error.row.outcome is not Outcome.NOT_SENT:
            self.left -= 1
        match error.row.scope:
            case Scope.KEY | Scope.MODEL:
                self.avoided.add((key.upstream, key.id))
            case Scope.ACCOUNT:
                self.avoided.add((key.upstream, f"{key.account}/"))
            case _:
                pass

    def note_no_key(self, nothing: NoKey) -> None:
        self.is_busy = self.is_busy or nothing.is_busy
        if nothing.wait_s is not None:
            self.shortest_wait_s = min(nothing.wait_s, self.shortest_wait_s or nothing.wait_s)

    def may_go_elsewhere(self, error: GatewayError) -> bool:
        """Whether the next target may be asked because this whole upstream cannot serve."""
        row = error.row
        is_free = row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and row.retry is not Retry.NEVER
        return self.left > 0 and is_free and row.scope is Scope.UPSTREAM

    def may_send_again(self, error: GatewayError) -> bool:
        """The rule of the table: only outcomes known to be free, within what is left."""
        row = error.row
        if self.left <= 0 or row.retry is Retry.NEVER or row.outcome not in {Outcome.NOT_SENT, Outcome.REFUSED}:
            return False
        if row.retry is Retry.ONCE:
            if self.has_retried_once:
                return False
            self.has_retried_once = True
        return True

    def verdict(self) -> GatewayError:
        """Why the part could not be made: the last fault, or a pool without keys."""
        if self.last is not None:
            return self.last
        fault = Fault.POOL_BUSY if self.is_busy else Fault.POOL_DOWN
        return GatewayError(fault, "no key is free", retry_after_s=self.shortest_wait_s)


class Upstreams:
    """The scheduler of upstream calls."""

    def __init__(
        self,
        pool: KeyPool,
        admission: Admission,
        caller: Caller,
        fetcher: ResultFetcher,
        endpoints: Mapping[str, Endpoint],
        policy: Policy,
        monotonic: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._admission = admission
        self._caller = caller
        self._fetcher = fetcher
        self._endpoints = endpoints
        self._policy = policy
        self._monotonic = monotonic

    async def generate(
        self, job: ImageJob, model: Model, ticket: Ticket, trace: Trace, has_left: HasLeft
    ) -> ImageResult:
        """Make the job's images, and tell the ticket what became of each.

        Returns: at least one picture; fewer than asked where some were withheld or some calls failed.
        Raises: GatewayError with the fault that matters most to the caller.
        """
        targets = model.targets_for(job, self._policy.size_policy)
        run = _Run(job, model, ticket, trace, self._monotonic() + self._policy.deadline_s, has_left)
        outcomes = await self._make(run, job.count, targets, _Tries(self._policy.max_attempts))
        replies = [outcome for outcome in outcomes if isinstance(outcome, _Made)]
        if not replies:
            raise _worst([outcome for outcome in outcomes if isinstance(outcome, GatewayError)])
        pictures = tuple(picture for reply in replies for picture in reply.pictures)
        return ImageResult(pictures, replies[0].shape.made, job.count, replies[0].id)

    async def _make(self, run: _Run, count: int, targets: tuple[Target, ...], tries: _Tries) -> list["_Outcome"]:
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

    async def _make_part(self, run: _Run, count: int, targets: tuple[Target, ...], tries: _Tries) -> list["_Outcome"]:
        """What one call can make: here, with another key, or at the next target."""
        target, *others = targets
        while True:
            lease = await self._lease(run, target, tries)
            if isinstance(lease, GatewayError):
                return [lease]
            if isinstance(lease, NoKey):
                tries.note_no_key(lease)
                break
            outcome = await self._send(run, lease, target, count)
            if isinstance(outcome, _Made):
                return [outcome]
            tries.note_failure(outcome, lease.key)
            if others and tries.may_go_elsewhere(outcome):
                break
            if not tries.may_send_again(outcome):
                return [outcome]
            if outcome.row.scope is Scope.UPSTREAM and outcome.row.retry is Retry.FREELY:
                break
        if others:
            return await self._make(run, count, tuple(others), tries)
        return [tries.verdict()]

    async def _lease(self, run: _Run, target: Target, tries: _Tries) -> Lease | NoKey | GatewayError:
        """A failure is an outcome: other parts of the job may have been made already."""
        started = self._monotonic()
        try:
            avoided = [what for upstream, what in tries.avoided if upstream == target.upstream]
            return await self._pool.lease(target.upstream, target.model, avoided)
        except GatewayError as error:
            return error
        finally:
            run.trace.waits.append((started, self._monotonic()))

    async def _send(self, run: _Run, lease: Lease, target: Target, count: int) -> "_Outcome":
        """One call, from the note in the ticket to the last picture."""
        asked = run.job.delivery if target.capability.answers_base64 else Delivery.URL
        dialect = self._endpoints[target.upstream].dialect
        body = dialect.build_call(run.job, count, target.model, self._shape(run, target), asked)
        try:
            share = await self._open(run, lease, count)
        except GatewayError as error:
            return error
        started = self._monotonic()
        run.trace.key_fingerprints.append(lease.key.secret.fingerprint)
        endpoint, remaining_s = self._endpoints[target.upstream], max(0.0, run.ends_at - self._monotonic())
        outcome = await self._caller.call(endpoint, lease, body, asked, count=count, remaining_s=remaining_s)
        made: _Outcome
        if isinstance(outcome, GatewayError):
            made = outcome
            await self._note_failure(run, lease, share, count, outcome)
        else:
            made = await self._receive(run, target, share, count, outcome)
        run.trace.calls.append((started, self._monotonic()))
        return made

    async def _open(self, run: _Run, lease: Lease, count: int) -> Share:
        """The last moment at which a call may still be left out. Raises: GatewayError, and nothing may be sent."""
        if run.ends_at <= self._monotonic():
            raise GatewayError(Fault.DEADLINE)
        if await run.has_left():
            raise GatewayError(Fault.CLIENT_LEFT)
        return await self._admission.open(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _note_failure(self, run: _Run, lease: Lease, share: Share, count: int, error: GatewayError) -> None:
        if error.row.outcome is Outcome.NOT_SENT:
            run.trace.key_fingerprints.remove(lease.key.secret.fingerprint)
        if share.fail(count, error.row):
            await self._admission.free(run.ticket, lease.key.upstream, lease.key.account, count)

    async def _receive(self, run: _Run, target: Target, share: Share, count: int, reply: ImageReply) -> "_Outcome":
        """The pictures as the caller wants them: never more than were ordered."""
        endpoint, remaining_s = self._endpoints[target.upstream], max(0.0, run.ends_at - self._monotonic())
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
