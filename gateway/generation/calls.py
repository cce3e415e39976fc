"""Upstream calls: sends a request, reads its response within limits, and releases its lease."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, cast

import httpx
import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.billing import OpenCall
from gateway.domain.errors import ErrorCode, GatewayError, Outcome, detach
from gateway.domain.images import ImageJob, ImageReply, ResponseFormat
from gateway.generation.inflation import Inflater
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.redaction import own_words, redact_error, redact_reply
from gateway.generation.retry_after import read_retry_after
from gateway.generation.transport.connections import PIECE_BYTES, READ_AHEAD_BYTES
from gateway.generation.transport.proxies import Proxy, ProxyRules
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.observability.metrics import Metrics
from gateway.providers.protocol import ProviderRequest
from gateway.providers.replies import UpstreamResponse
from gateway.scheduler import NOT_SENT, CallReport, Lease, Scheduler

_LOG = structlog.get_logger("imagegate.upstream")

_parse_url = lru_cache(maxsize=1024)(httpx.URL)
"""Parsing costs more than the rest of a request; there are few upstreams and routes."""

_TRANSPORT_ERRORS: Final[dict[type[httpx.TransportError], ErrorCode]] = {
    # Nothing reached the upstream.
    httpx.ConnectError: ErrorCode.CONNECT_FAILED,
    httpx.ConnectTimeout: ErrorCode.CONNECT_FAILED,
    httpx.PoolTimeout: ErrorCode.CONNECT_FAILED,
    httpx.ProxyError: ErrorCode.CONNECT_FAILED,
    httpx.UnsupportedProtocol: ErrorCode.NOT_SENT,
    httpx.LocalProtocolError: ErrorCode.NOT_SENT,
    # The request may have reached it.
    httpx.TimeoutException: ErrorCode.READ_TIMEOUT,
    httpx.TransportError: ErrorCode.CONNECTION_LOST,
}
"""By the most specific class."""


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
    entry: OpenCall = field(default_factory=OpenCall)
    memory: ByteAccount = field(default_factory=ByteAccount)


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
        outcome: ImageReply | GatewayError | None = None
        try:
            with self._metrics.upstream_calls_in_flight.labels(endpoint.name).track_inprogress():
                reply = await self._exchange(endpoint, lease, order, timeout_s)
                made = endpoint.provider.read_reply(reply, order.delivery)
                made = replace(made, pictures=made.pictures[: order.images])  # those that were ordered
                outcome = redact_reply(made, secret)
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
            images = len(outcome.pictures)
            report = CallReport(images=images, usd_micros=images * order.price_usd_micros)
        report = replace(report, sent_s=sent_s, is_cut_short=is_cut_short)
        label = report.error_code.value if report.error_code else "none"
        self._metrics.upstream_calls.labels(key.upstream, label).inc()
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


async def read_reply(
    transport: httpx.AsyncBaseTransport, request: httpx.Request, max_bytes: int, memory: ByteAccount | None = None
) -> UpstreamResponse:
    """Sends a request and reads its whole response. Waits while `memory` has no room, also before it sends.

    Raises: GatewayError of the network, RESPONSE_TOO_LARGE, INVALID_RESPONSE.
    """
    memory = memory or ByteAccount()
    await memory.wait_for(READ_AHEAD_BYTES)
    try:
        response = await transport.handle_async_request(request)
        try:
            body = await _read_body(response, max_bytes, memory)
        finally:
            await response.aclose()
    except httpx.TransportError as error:
        raise GatewayError(transport_fault(error), str(error)) from error
    finally:
        memory.note(-READ_AHEAD_BYTES)
    return UpstreamResponse(response.status_code, body, read_retry_after(response.headers), response.headers)


def find_proxy(proxies: ProxyRules, url: str) -> Proxy | None:
    """Returns the proxy for a URL. Raises: GatewayError NOT_SENT if it cannot be used."""
    try:
        return proxies.find(url)
    except ValueError as error:
        raise GatewayError(ErrorCode.NOT_SENT, str(error)) from error


def transport_fault(error: httpx.TransportError) -> ErrorCode:
    return next(_TRANSPORT_ERRORS[kind] for kind in type(error).__mro__ if kind in _TRANSPORT_ERRORS)


async def _read_body(response: httpx.Response, max_bytes: int, memory: ByteAccount) -> bytearray:
    """Returns the body, decompressed if necessary, never beyond the limit. A piece is read once there is room for it.

    Each piece is copied on arrival: joining them at the end would hold a second body in memory.
    """
    encoding = response.headers.get("content-encoding")
    inflate = _inflater(encoding) if encoding else None
    body = bytearray()
    assert isinstance(
        response.stream, httpx.AsyncByteStream
    )  # true of every transport; httpx's own iterator costs as much again
    await memory.wait_for(PIECE_BYTES)
    try:
        async for received in response.stream:
            for piece in inflate(received) if inflate else (received,):
                if len(body) + len(piece) > max_bytes:
                    raise GatewayError(ErrorCode.RESPONSE_TOO_LARGE, f"more than {max_bytes} bytes")  # noqa: TRY301
                await memory.wait_for(len(piece))
                body += piece
                if inflate:
                    await asyncio.sleep(0)  # few bytes may take long to decompress: yield to other tasks
    except BaseException:
        memory.note(-len(body))
        raise
    finally:
        memory.note(-PIECE_BYTES)
    return body


def _inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """Returns a function that decompresses the body in small pieces; None for uncompressed responses.

    Some upstreams ignore `accept-encoding: identity`. Raises: GatewayError INVALID_RESPONSE, also from the function.
    """
    codings = [name for part in encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"content encoding {encoding[:40]!r}")
    return Inflater(lambda why: GatewayError(ErrorCode.INVALID_RESPONSE, f"broken content encoding: {why}")).feed
