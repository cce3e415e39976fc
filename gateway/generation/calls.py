"""Upstream calls: sends a request, reads its response within limits, and releases its lease."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import cast

import httpx
import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.billing import OpenCall
from gateway.domain.errors import ErrorCode, GatewayError, Outcome, detach
from gateway.domain.images import ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.pricing import CallPrice
from gateway.domain.tasks import Task
from gateway.generation.exchange import find_proxy, read_reply
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.redaction import own_words, redact_error, redact_reply
from gateway.generation.tasks import TaskTracker
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.metering.reservations import Reservation
from gateway.observability.metrics import Metrics
from gateway.providers.protocol import ProviderRequest, TaskProvider
from gateway.providers.replies import UpstreamResponse
from gateway.scheduler import NOT_SENT, CallReport, Lease, Scheduler
from gateway.scheduler.tasks import OpenTask

_LOG = structlog.get_logger("imagegate.upstream")

_parse_url = lru_cache(maxsize=1024)(httpx.URL)
"""Parsing costs more than the rest of a request; there are few upstreams and routes."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of one call, in seconds and bytes."""

    connect_timeout_s: float
    timeout_s: float
    """From send to the last byte, for one image."""
    timeout_per_image_s: float
    """Added for each further image."""
    max_response_bytes: int


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """The parameters of one call."""

    request: ProviderRequest
    delivery: ResponseFormat
    images: int
    price: CallPrice
    job: ImageJob = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    entry: OpenCall = field(default_factory=OpenCall)
    memory: ByteAccount = field(default_factory=ByteAccount)
    made: Size | None = None
    reservation: Reservation | None = None
    request_id: str = ""
    is_repeatable: bool = False
    """The call makes all images of an order with an Idempotency-Key."""


@dataclass(slots=True, eq=False)
class UpstreamClient:
    """Sends single calls."""

    _transport: httpx.AsyncBaseTransport
    _pool: Scheduler
    _limits: CallLimits
    _metrics: Metrics
    _user_agent: str
    _monotonic: Callable[[], float]
    _journal_release: Callable[[Lease, CallReport], Awaitable[None]] | None = None
    _suspect: Callable[[ProviderKey], None] = lambda _: None
    _clock: Callable[[], float] = time.time
    tasks: TaskTracker | None = None
    """None if no upstream has tasks."""
    _releasing: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def call(
        self, endpoint: UpstreamEndpoint, lease: Lease, order: UpstreamCall, *, remaining_s: float
    ) -> ImageReply | GatewayError:
        """Sends one call and releases its lease.

        Returns: the reply, or the error, since a failed call is a normal outcome here. A call that wrote no byte is
        free, whatever ended it.
        """
        timeout_s = min(remaining_s, self._limits.timeout_s + (order.images - 1) * self._limits.timeout_per_image_s)
        entry, secret, started_s = order.entry, lease.key.secret, self._monotonic()
        ends_s = started_s + remaining_s
        outcome: ImageReply | GatewayError | None = None
        try:
            with self._metrics.upstream_calls_in_flight.labels(endpoint.name).track_inprogress():
                reply = await self._exchange(endpoint, lease, order, timeout_s)
                made = endpoint.provider.read_reply(reply, order.delivery)
                if isinstance(made, Task):
                    made = await self._finish(endpoint, lease, order, made, ends_s)
                ordered = replace(made, pictures=made.pictures[: order.images])
                outcome = redact_reply(ordered, secret)
        except GatewayError as error:
            outcome = detach(error)  # this frame holds the error
            if entry.sent_s is None and error.row.outcome is not Outcome.NOT_SENT:
                is_timeout = error.error_code is ErrorCode.READ_TIMEOUT
                outcome = GatewayError(ErrorCode.NOT_SENT if is_timeout else ErrorCode.CONNECT_FAILED, error.detail)
            outcome = redact_error(outcome, secret, own_words(order.job))
            entry.fail(outcome.row)  # before any await: a cancellation must not lose it
            if outcome.row.asks_page:
                self._suspect(lease.key)
        finally:
            duration_s = self._monotonic() - started_s
            self._metrics.upstream_call_duration_seconds.labels(endpoint.name).observe(duration_s)
            await self._end(lease, order, outcome, is_cut_short=timeout_s < self._limits.timeout_s)
        return outcome

    async def _finish(
        self, endpoint: UpstreamEndpoint, lease: Lease, order: UpstreamCall, task: Task, ends_s: float
    ) -> ImageReply:
        """Asks for a task until `ends_s` (monotonic). Raises: GatewayError."""
        provider, key, reservation = endpoint.provider, lease.key, order.reservation
        assert self.tasks
        assert reservation
        assert order.made
        assert isinstance(provider, TaskProvider)
        opened = OpenTask(
            *(lease.id, key.upstream, key.account, key.name, key.secret.fingerprint, lease.model, order.images),
            *(order.delivery, order.job.delivery, order.made, task, reservation.caller.tenant.name, reservation.id),
            *(order.request_id, order.is_repeatable),
            math.ceil(order.price.tariff.cost(order.price.planned) / order.images),
            self._clock() + provider.rhythm.expires_s,
        )
        try:
            made = await self.tasks.finish(
                endpoint, key, opened, ends_s, order.memory, lambda: reservation.settled_s is not None
            )
        finally:
            if self.tasks.holds(lease.id):
                reservation.tally.tasks.append(lease.id)
        stated = made.stated_usd_micros
        return replace(made, stated_usd_micros=task.stated_usd_micros if stated is None else stated)

    async def release_unused(self, lease: Lease) -> None:
        """Releases a lease whose call was not sent; no error is recorded."""
        await asyncio.shield(self._release(lease, NOT_SENT))

    async def flush(self) -> None:
        if self._releasing:
            await asyncio.wait(self._releasing)

    async def _exchange(
        self, endpoint: UpstreamEndpoint, lease: Lease, order: UpstreamCall, timeout_s: float
    ) -> UpstreamResponse:
        """Sends a request and reads its response. Raises: GatewayError of the network."""
        if timeout_s <= 0:
            raise GatewayError(ErrorCode.NOT_SENT, "no time left")
        asked, entry = order.request, order.entry

        def note_sent() -> None:
            entry.sent_s = self._monotonic()
            self._pool.note_sent(lease, entry.sent_s)

        url = _parse_url(endpoint.base_url + asked.path)
        headers = [
            ("host", url.netloc.decode("ascii")),
            *asked.headers,
            ("content-length", str(sum(map(len, asked.body)))),
            ("accept-encoding", "identity"),
            ("user-agent", self._user_agent),
            *order.headers.items(),
        ]
        # Connecting must time out first: if both timed out together, "not sent" could not be proved.
        timeout = {"connect": min(timeout_s / 2, self._limits.connect_timeout_s)}
        extensions = {
            "timeout": timeout,
            "on_sent": note_sent,
            "proxy": find_proxy(endpoint.proxies, endpoint.base_url),
        }
        body = cast("tuple[bytes, ...]", asked.body)  # the transport also takes memory views
        request = httpx.Request(asked.method, url, headers=headers, content=body, extensions=extensions)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await read_reply(self._transport, request, self._limits.max_response_bytes, order.memory)
        except TimeoutError as error:
            raise GatewayError(ErrorCode.READ_TIMEOUT, f"no complete response within {timeout_s:.0f} s") from error
        if entry.sent_s is None:
            raise GatewayError(ErrorCode.CONNECTION_LOST, "the response arrived before the request was sent")
        return replace(reply, sent=asked.body, url=str(url))

    async def _end(
        self, lease: Lease, order: UpstreamCall, outcome: ImageReply | GatewayError | None, *, is_cut_short: bool
    ) -> None:
        """Counts and reports the call, and releases the lease.

        A success is reported concurrently with the settlement, in the same Redis pipeline. An error must be known
        before the retry. A call cancelled by shutdown is neither a success nor a failure.
        """
        key, sent_s = lease.key, order.entry.sent_s
        if isinstance(outcome, GatewayError):
            report = CallReport(outcome.error_code, outcome.retry_after_s, outcome.cooldown_s)
            _LOG.warning(
                "upstream_call_failed",
                upstream=key.upstream,
                account=key.account,
                key=key.secret.fingerprint,
                error_code=outcome.error_code.value,
                detail=outcome.detail,
            )
        elif outcome is None:
            report = NOT_SENT if sent_s is None else CallReport(ErrorCode.INTERNAL)
        else:
            images = min(order.images, outcome.images)
            report = CallReport(images=images, usd_micros=math.ceil(order.price.bill(outcome, images).charge))
        report = replace(report, sent_s=sent_s, is_cut_short=is_cut_short)
        label = report.error_code.value if report.error_code else "none"
        self._metrics.upstream_calls.labels(key.upstream, label).inc()
        if self.tasks and self.tasks.holds(lease.id):
            return
        releasing = asyncio.get_running_loop().create_task(self._release(lease, report))
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)
        if report.error_code is not None:
            await asyncio.shield(releasing)

    async def _release(self, lease: Lease, report: CallReport) -> None:
        """Releases a lease. A Redis failure is only logged: the images matter more than the key's record."""
        try:
            await self._pool.release(lease, report)
        except GatewayError as failure:
            _LOG.warning("release_failed", key=lease.key.secret.fingerprint, detail=failure.detail)
            if self._journal_release:
                await self._journal_release(lease, report)
