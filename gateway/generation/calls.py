"""One upstream call: sends it, reads the reply within limits, and releases its lease."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import httpx
import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.billing import OpenCall
from gateway.domain.errors import ErrorCode, GatewayError, Outcome, detach
from gateway.domain.images import ImageJob, ImageReply, ResponseFormat
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.redaction import own_words, redact_error, redact_reply
from gateway.generation.responses import read_reply
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.observability.metrics import Metrics
from gateway.providers.protocol import ProviderRequest
from gateway.providers.replies import UpstreamResponse
from gateway.scheduler import NOT_SENT, CallReport, Lease, Scheduler

_LOG = structlog.get_logger("imagegate.upstream")


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
    price_usd_micros: int
    """Per image."""
    job: ImageJob = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the headers of every call."""
    entry: OpenCall = field(default_factory=OpenCall)
    """Records that the call was sent, and how it failed."""
    memory: ByteAccount = field(default_factory=ByteAccount)
    """The byte account of the reply."""


class UpstreamClient:
    """Sends single calls."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        pool: Scheduler,
        limits: CallLimits,
        metrics: Metrics,
        user_agent: str,
        monotonic: Callable[[], float],
        journal_release: Callable[[Lease, CallReport], Awaitable[None]] | None = None,
        suspect: Callable[[ProviderKey], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._journal_release = journal_release
        self._suspect = suspect
        self._monotonic = monotonic
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._user_agent = user_agent
        self._releasing: set[asyncio.Task[None]] = set()

    async def call(
        self, endpoint: UpstreamEndpoint, lease: Lease, order: UpstreamCall, *, remaining_s: float
    ) -> ImageReply | GatewayError:
        """Sends one call and releases its lease.

        Returns: the reply, or the error, since a failed call is a normal outcome here. A call that wrote no byte is
        free, whatever ended it.
        """
        timeout_s = min(remaining_s, self._limits.timeout_s + (order.images - 1) * self._limits.timeout_per_image_s)
        entry = order.entry

        def note_sent() -> None:
            entry.sent_s = self._monotonic()
            self._pool.note_sent(lease, entry.sent_s)

        request = self._build_request(endpoint, order, timeout_s)
        request.extensions["on_sent"] = note_sent
        outcome: ImageReply | GatewayError | None = None
        started_s = self._monotonic()
        try:
            with self._metrics.upstream_calls_in_flight.labels(endpoint.name).track_inprogress():
                reply = replace(await self._exchange(request, timeout_s, order.memory), sent=order.request.body)
                if entry.sent_s is None:
                    raise GatewayError(ErrorCode.CONNECTION_LOST, "the response arrived before the request was sent")  # noqa: TRY301
                made = endpoint.provider.read_reply(reply, order.delivery)
                made = replace(made, pictures=made.pictures[: order.images])  # those that were ordered
                outcome = redact_reply(made, lease.key.secret)
        except GatewayError as error:
            own = detach(_unsent(error) if entry.sent_s is None else error)  # this frame holds the error
            outcome = redact_error(own, lease.key.secret, own_words(order.job))
            entry.fail(outcome.row)  # before any await: a cancellation must not lose it
            if outcome.row.asks_page:
                self._suspect(lease.key)
        finally:
            duration_s = self._monotonic() - started_s
            self._metrics.upstream_call_duration_seconds.labels(endpoint.name).observe(duration_s)
            report = replace(
                _report(outcome, order), sent_s=entry.sent_s, is_cut_short=timeout_s < self._limits.timeout_s
            )
            await self._end(lease, report, outcome if isinstance(outcome, GatewayError) else None)
        return outcome

    async def release_unused(self, lease: Lease) -> None:
        """Releases a lease whose call was not sent; no error is recorded."""
        await asyncio.shield(self._release(lease, NOT_SENT))

    def _build_request(self, endpoint: UpstreamEndpoint, order: UpstreamCall, timeout_s: float) -> httpx.Request:
        """Builds a request with every header set, because httpx would search for missing ones."""
        asked = order.request
        url = parse_url(endpoint.base_url + asked.path)
        return httpx.Request(
            asked.method,
            url,
            stream=_Pieces(asked.body),
            headers=[
                ("host", url.netloc.decode("ascii")),
                *asked.headers,
                ("content-length", str(sum(len(piece) for piece in asked.body))),
                ("accept-encoding", "identity"),
                ("user-agent", self._user_agent),
                *order.headers.items(),
            ],
            # Connecting must time out first: if both timed out together, "not sent" could not be proved.
            extensions={"timeout": {"connect": min(timeout_s / 2, self._limits.connect_timeout_s)}},
        )

    async def _exchange(self, request: httpx.Request, timeout_s: float, memory: ByteAccount) -> UpstreamResponse:
        """Sends a request. Raises: GatewayError of the network."""
        if timeout_s <= 0:
            raise GatewayError(ErrorCode.NOT_SENT, "no time left")
        try:
            async with asyncio.timeout(timeout_s):
                return await read_reply(self._transport, request, self._limits.max_response_bytes, memory)
        except TimeoutError as error:
            raise GatewayError(ErrorCode.READ_TIMEOUT, f"no complete response within {timeout_s:.0f} s") from error

    async def _end(self, lease: Lease, report: CallReport, error: GatewayError | None) -> None:
        """Releases the lease and counts the call.

        A success is reported concurrently with the settlement, in the same Redis pipeline. An error must be known
        before
        the retry.
        """
        self._metrics.upstream_calls.labels(
            lease.key.upstream, report.error_code.value if report.error_code else "none"
        ).inc()
        if error:
            _LOG.warning(
                "upstream_call_failed",
                upstream=lease.key.upstream,
                account=lease.key.account,
                key=lease.key.secret.fingerprint,
                error_code=error.error_code.value,
                detail=error.detail,
            )
        releasing = asyncio.get_running_loop().create_task(self._release(lease, report))
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)
        if report.error_code is not None:
            await asyncio.shield(releasing)

    async def flush(self) -> None:
        """Waits for pending reports."""
        if self._releasing:
            await asyncio.wait(self._releasing)

    async def _release(self, lease: Lease, report: CallReport) -> None:
        """Releases a lease. A Redis failure is only logged: the images matter more than the key's record."""
        try:
            await self._pool.release(lease, report)
        except GatewayError as failure:
            _LOG.warning("release_failed", key=lease.key.secret.fingerprint, detail=failure.detail)
            if self._journal_release:
                await self._journal_release(lease, report)


@lru_cache(maxsize=1024)
def parse_url(url: str) -> httpx.URL:
    """Parses and caches a URL. Parsing costs more than the rest of a request; there are few upstreams and routes."""
    return httpx.URL(url)


class _Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body in pieces that are not joined: one may be megabytes."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def _unsent(error: GatewayError) -> GatewayError:
    """Returns the error of a call that ended before its first byte was written."""
    if error.row.outcome is Outcome.NOT_SENT:
        return error
    return GatewayError(
        ErrorCode.NOT_SENT if error.error_code is ErrorCode.READ_TIMEOUT else ErrorCode.CONNECT_FAILED,
        error.detail,
    )


def _report(outcome: ImageReply | GatewayError | None, order: UpstreamCall) -> CallReport:
    """Builds the report for the scheduler. A call cancelled by shutdown is neither a success nor a failure."""
    if outcome is None:
        return NOT_SENT if order.entry.sent_s is None else CallReport(ErrorCode.INTERNAL)
    if isinstance(outcome, GatewayError):
        return CallReport(outcome.error_code, outcome.retry_after_s, outcome.cooldown_s)
    images = len(outcome.pictures)
    return CallReport(images=images, usd_micros=images * order.price_usd_micros)
