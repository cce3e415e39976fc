"""Reads request bodies within limits, and sends response bodies without copying."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.api.request_context import context_of, poll_message
from gateway.domain.errors import ErrorCode, GatewayError

_SOON_S: Final = 0.05
"""Seconds. Clients often send a head and its small body as two packets."""
_SENT_BYTES: Final = 256 * 1024
"""Size of a write. The next one follows when the connection has capacity."""
_JOINED_MAX_BYTES: Final = 16 * 1024
"""Pieces up to this size are joined, which costs less than separate writes."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a request body."""

    max_bytes: int
    timeout_s: float


async def read_json_body(request: Request, limits: BodyLimits) -> bytes | bytearray:
    """Reads the whole body of a JSON request.

    Raises: GatewayError UNSUPPORTED_CONTENT_TYPE, BODY_TOO_LARGE, BODY_TIMEOUT, TENANT_MEMORY_FULL, MEMORY_FULL;
    ClientDisconnect.
    """
    _check_content_type(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(limits)
    message = poll_message(request.receive) or await _take_soon(request)
    if message and message["type"] == "http.request" and not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        if len(whole) > limits.max_bytes:
            raise _too_large(limits)
        context_of(request).memory.take(len(whole))
        return whole
    if transfer := context_of(request).transfer:
        await transfer.begin()
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await _read_rest(request, message, limits)
    except TimeoutError as error:
        raise GatewayError(
            ErrorCode.BODY_TIMEOUT, f"The request body did not arrive within {limits.timeout_s:.0f} seconds."
        ) from error


async def _take_soon(request: Request) -> Message | None:
    """Returns the next message if it arrives within 50 ms: such a body needs no transfer slot."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SOON_S):
            return await request.receive()
    return None


async def _read_rest(request: Request, message: Message | None, limits: BodyLimits) -> bytearray:
    """Reads the body, which begins with `message` if there is one. Bytes are counted as they arrive.

    Raises: GatewayError, ClientDisconnect.
    """
    body, memory = bytearray(), context_of(request).memory
    while True:
        message = message or await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if len(body) + len(piece) > limits.max_bytes:
            raise _too_large(limits)
        memory.take(len(piece))
        body += piece
        if not message.get("more_body"):
            return body
        message = None


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "application/json")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise GatewayError(
            ErrorCode.UNSUPPORTED_CONTENT_TYPE,
            f"Unsupported content type: '{content_type[:100]}'. This API method only accepts 'application/json'.",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise GatewayError(
            ErrorCode.UNSUPPORTED_CONTENT_TYPE,
            f"Unsupported content encoding: '{encoding[:100]}'. Send the body without compression.",
        )


def _too_large(limits: BodyLimits) -> GatewayError:
    return GatewayError(ErrorCode.BODY_TOO_LARGE, f"The request body is larger than {limits.max_bytes} bytes.")


def json_response(body: dict[str, object], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


class ChunksResponse(Response):
    """A JSON response that is sent in pieces without copying; small ones are joined."""

    def __init__(self, chunks: list[bytes | memoryview], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, 200, headers, "application/json")
        self._chunks = chunks
        self._bytes = sum(len(chunk) for chunk in chunks)
        self.headers["content-length"] = str(self._bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        chunks = self._chunks if self._bytes > _JOINED_MAX_BYTES else [b"".join(self._chunks)]
        *others, last = (part for chunk in chunks for part in split_chunk(chunk))
        for part in others:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last, "more_body": False})


def split_chunk(chunk: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Splits a piece into non-empty parts, because TLS and chunked encoding copy each write."""
    for start in range(0, len(chunk), _SENT_BYTES):
        yield chunk if len(chunk) <= _SENT_BYTES else memoryview(chunk)[start : start + _SENT_BYTES]
