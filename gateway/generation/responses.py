"""Reads an upstream's reply within limits, and classifies transport errors by what they may have cost."""

import asyncio
from typing import Final

import httpx

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.decompression import inflater
from gateway.generation.memory_budget import ByteAccount
from gateway.providers.replies import UpstreamResponse

TRANSPORT_FAULTS: Final[dict[type[httpx.TransportError], ErrorCode]] = {
    # Nothing reached the upstream.
    httpx.ConnectError: ErrorCode.CONNECT_FAILED,
    httpx.ConnectTimeout: ErrorCode.CONNECT_FAILED,
    httpx.PoolTimeout: ErrorCode.CONNECT_FAILED,
    httpx.ProxyError: ErrorCode.CONNECT_FAILED,
    httpx.UnsupportedProtocol: ErrorCode.NOT_SENT,
    httpx.LocalProtocolError: ErrorCode.NOT_SENT,
    # The request may have reached it.
    httpx.ReadTimeout: ErrorCode.READ_TIMEOUT,
    httpx.WriteTimeout: ErrorCode.READ_TIMEOUT,
    httpx.TimeoutException: ErrorCode.READ_TIMEOUT,
    httpx.ReadError: ErrorCode.CONNECTION_LOST,
    httpx.WriteError: ErrorCode.CONNECTION_LOST,
    httpx.CloseError: ErrorCode.CONNECTION_LOST,
    httpx.NetworkError: ErrorCode.CONNECTION_LOST,
    httpx.RemoteProtocolError: ErrorCode.CONNECTION_LOST,
    httpx.ProtocolError: ErrorCode.CONNECTION_LOST,
    httpx.TransportError: ErrorCode.CONNECTION_LOST,
}
"""Every class of httpx.TransportError, most specific first."""


async def read_reply(
    transport: httpx.AsyncBaseTransport, request: httpx.Request, max_bytes: int, memory: ByteAccount | None = None
) -> UpstreamResponse:
    """Sends a request and reads its whole reply, counted against `memory`. Waits while `memory` has no room.

    Raises: GatewayError of the network, RESPONSE_TOO_LARGE, INVALID_RESPONSE.
    """
    try:
        response = await transport.handle_async_request(request)
        try:
            body = await _read_body(response, max_bytes, memory or ByteAccount())
        finally:
            await response.aclose()
    except httpx.TransportError as error:
        raise GatewayError(transport_fault(error), f"{type(error).__name__}: {error}") from error
    return UpstreamResponse(
        response.status_code, body, _retry_after_s(response.headers.get("retry-after")), response.headers
    )


def transport_fault(error: httpx.TransportError) -> ErrorCode:
    return next(TRANSPORT_FAULTS[kind] for kind in type(error).__mro__ if kind in TRANSPORT_FAULTS)


async def _read_body(response: httpx.Response, max_bytes: int, memory: ByteAccount) -> bytearray:
    """Returns the body, decompressed if necessary, never beyond the limit.

    Each piece is copied on arrival: joining them at the end would hold a second body in memory.
    """
    inflate = inflater(response.headers.get("content-encoding", "identity"))
    body = bytearray()
    assert isinstance(
        response.stream, httpx.AsyncByteStream
    )  # true for every transport; httpx's own iterator costs as much
    try:
        async for received in response.stream:
            for piece in inflate(received) if inflate else (received,):
                _check_size(len(body) + len(piece), max_bytes)
                await memory.wait_for(len(piece))
                body += piece
                if inflate:
                    await asyncio.sleep(0)  # few bytes may take long to decompress: yield to other tasks
    except BaseException:
        memory.note(-len(body))
        raise
    return body


def _check_size(size_bytes: int, max_bytes: int) -> None:
    """Raises: GatewayError RESPONSE_TOO_LARGE."""
    if size_bytes > max_bytes:
        raise GatewayError(ErrorCode.RESPONSE_TOO_LARGE, f"more than {max_bytes} bytes")


def _retry_after_s(text: str | None) -> float | None:
    """Parses the seconds of a Retry-After header; these upstreams do not use its date form."""
    if text is None or not text.strip().isdecimal() or len(text) > 9:
        return None
    return float(text)
