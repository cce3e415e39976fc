"""Reads the messages of a request within limits, and sends response bodies without copying."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.api.decoding import BodyDecoder
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.context import RequestContext

_SOON_S: Final = 0.05
"""Clients often send a head and its small body as two packets: such a body needs no transfer slot."""
_SENT_BYTES: Final = 256 * 1024
"""Size of a write. The next one follows when the connection has capacity."""
_JOINED_MAX_BYTES: Final = 16 * 1024
"""Pieces up to this size are joined, which costs less than separate writes."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a request body."""

    max_bytes: int
    timeout_s: float
    content_types: str = "'application/json'"
    progress_bytes: int = 0
    """If set, a form may take `timeout_s` for each part of this size, instead of for all of it."""


def context_of(connection: HTTPConnection) -> RequestContext:
    context = connection.scope["state"]["context"]
    assert isinstance(context, RequestContext)
    return context


def note_disconnect(scope: Mapping[str, Any], now_s: float) -> None:
    """Records that the client of a request without a complete response has disconnected; monotonic."""
    context = scope.get("state", {}).get("context")
    if isinstance(context, RequestContext):
        context.left_s = now_s


@dataclass(slots=True, eq=False, repr=False)
class ClientConnection:
    """The connection of one request, as a DisconnectEvent. Use it after the request's body has been read."""

    receive: Receive
    _is_closed: bool = False

    def is_set(self) -> bool:
        if not self._is_closed:
            message = poll_message(self.receive)
            self._is_closed = message is not None and message["type"] == "http.disconnect"
        return self._is_closed

    async def wait(self) -> None:
        """Waits until the client disconnects. Several callers may wait."""
        while not self._is_closed:
            message = await self.receive()
            self._is_closed = message["type"] == "http.disconnect"


def poll_message(receive: Receive) -> Message | None:
    """Returns the next message of a request, if it has arrived.

    Starlette polls through the event loop, which costs a twentieth of a request's CPU.
    """
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as message:
        received: Message = message.value
        return received
    receiving.close()
    return None


async def read_json_body(request: Request, limits: BodyLimits) -> bytes | bytearray:
    """Reads the whole body of a JSON request, decompressed. Bytes are counted as they arrive.

    Raises: GatewayError UNSUPPORTED_CONTENT_TYPE, BODY_TOO_LARGE, BODY_TIMEOUT, TENANT_MEMORY_FULL, MEMORY_FULL, and
    INVALID_JSON for broken compression; ClientDisconnect.
    """
    decoder = check_head(request, limits)
    context = context_of(request)
    body: bytes | bytearray = bytearray()
    message = poll_message(request.receive)
    if message is None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON_S):
                message = await request.receive()
    is_whole = message is not None and not message.get("more_body")
    if context.transfer and not is_whole:
        await context.transfer.begin()
    try:
        async with asyncio.timeout(None if is_whole else limits.timeout_s):
            async for piece in _receive(request, message, decoder):
                if len(body) + len(piece) > limits.max_bytes:
                    raise too_large(limits)
                context.memory.take(len(piece))
                if is_whole and not decoder:
                    body = piece
                else:
                    body += piece
    except TimeoutError as error:
        raise body_timeout(limits) from error
    return body


async def _receive(request: Request, message: Message | None, decoder: BodyDecoder | None) -> AsyncIterator[bytes]:
    """Yields the pieces of a body, the first from `message` if it has arrived. Raises: ClientDisconnect."""
    while True:
        message = message or await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        received: bytes = message.get("body", b"")
        for piece in decoder.feed(received) if decoder else (received,):
            yield piece
            if decoder:
                await asyncio.sleep(0)
        if not message.get("more_body"):
            break
        message = None
    if decoder:
        decoder.finish()


def check_head(request: Request, limits: BodyLimits, *, is_form: bool = False) -> BodyDecoder | None:
    """Returns the decoder of a compressed body. Raises: GatewayError UNSUPPORTED_CONTENT_TYPE, BODY_TOO_LARGE."""
    content_type = request.headers.get("content-type", "application/json")
    kind = content_type.partition(";")[0].strip().lower()
    if not is_form and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise GatewayError(
            ErrorCode.UNSUPPORTED_CONTENT_TYPE,
            f"Unsupported content type: '{content_type[:100]}'. This API method only accepts {limits.content_types}.",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_large(limits)
    encoding = request.headers.get("content-encoding")
    return None if encoding is None else BodyDecoder(encoding)


def too_large(limits: BodyLimits) -> GatewayError:
    return GatewayError(ErrorCode.BODY_TOO_LARGE, f"The request body is larger than {limits.max_bytes} bytes.")


def body_timeout(limits: BodyLimits) -> GatewayError:
    what = f"{limits.progress_bytes} bytes or the rest of the" if limits.progress_bytes else "The"
    text = f"{what} request body did not arrive within {limits.timeout_s:.0f} seconds."
    return GatewayError(ErrorCode.BODY_TIMEOUT, text)


def json_response(body: dict[str, object], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


class ChunksResponse(Response):
    """A JSON response that is sent in pieces without copying; small ones are joined."""

    def __init__(self, chunks: list[bytes | memoryview]) -> None:
        super().__init__(None, 200, None, "application/json")
        size = sum(len(chunk) for chunk in chunks)
        self._chunks = chunks if size > _JOINED_MAX_BYTES else [b"".join(chunks)]
        self.headers["content-length"] = str(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self.send_body(send)

    async def send_body(self, send: Send) -> None:
        *others, last = (part for chunk in self._chunks for part in split_chunk(chunk))
        for part in others:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last, "more_body": False})


def split_chunk(chunk: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Splits a piece into non-empty parts, because TLS and chunked encoding copy each write."""
    for start in range(0, len(chunk), _SENT_BYTES):
        yield chunk if len(chunk) <= _SENT_BYTES else memoryview(chunk)[start : start + _SENT_BYTES]
