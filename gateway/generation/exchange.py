"""One HTTP exchange with an upstream: sends a request, and reads its response within limits."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import httpx

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.inflation import Inflater
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.retry_after import read_retry_after
from gateway.generation.transport.connections import PIECE_BYTES, READ_AHEAD_BYTES
from gateway.generation.transport.proxies import Proxy, ProxyRules
from gateway.providers.replies import UpstreamResponse

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
