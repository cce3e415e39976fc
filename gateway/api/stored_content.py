"""Responses with the bytes of a stored object: whole or one range, conditional, streamed with back-pressure."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.bodies import context_of, split_chunk
from gateway.api.errors import record_error
from gateway.api.openai_responses import render_error
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.storage.objects import StoredObject, UnsatisfiableRangeError

_HELD_BYTES: Final = 1024 * 1024
"""Of one response: a chunk of the storage (storage/objects.py), and one that the client has not received yet."""
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_BEHIND_ALL: Final = 10**18
"""No object has as many bytes."""

Open = Callable[[int, int | None], Awaitable[StoredObject]]
"""Opens an object from a byte to another (exclusive; None is the end). A negative start counts from the end."""


async def respond_with(
    request: Request, etag: str, media_type: str, headers: Mapping[str, str], opens: Open
) -> Response:
    """Returns the response to a GET or HEAD request for an object (RFC 9110 sections 13 and 14).

    `etag` is strong, in quotes. Several ranges are answered with the whole object.
    Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL, and what `opens` raises.
    """
    common = {**headers, "etag": etag, "accept-ranges": "bytes"}
    wanted = _read_range(request, etag)
    try:
        content = await opens(*(wanted or (0, None)))
    except UnsatisfiableRangeError as error:
        return _refuse_range(request, error.size_bytes)
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(None, 304, common)
    status, length = 200, content.end - content.start
    if wanted and not content.size_bytes:  # no range of an empty object can be satisfied
        return _refuse_range(request, 0)
    if wanted:
        status, common["content-range"] = 206, f"bytes {content.start}-{content.end - 1}/{content.size_bytes}"
    common["content-length"] = str(length)
    if request.method == "HEAD":
        return Response(None, status, common, media_type)
    context_of(request).memory.take(min(length, _HELD_BYTES))
    return _StreamedResponse(content, status, common, media_type)


class _StreamedResponse(Response):
    """Sends an object as the client receives it."""

    def __init__(self, content: StoredObject, status: int, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, status, headers, media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Raises: GatewayError STORAGE_UNAVAILABLE, at which the connection is aborted."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        disconnected = context_of(HTTPConnection(scope)).disconnected
        async for chunk in self._content:
            if disconnected.is_set():
                return
            for part in split_chunk(chunk):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _read_range(request: Request, etag: str) -> tuple[int, int | None] | None:
    """Returns the range of a GET request; None for the whole, also if the header is not one valid range."""
    if request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return None
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    if not first:
        return (-int(last) or _BEHIND_ALL, None) if last else None
    if not last:
        return int(first), None
    return (int(first), int(last) + 1) if int(first) <= int(last) else None


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = (if_none_match or "").split(",")
    return any(tag.strip().removeprefix("W/") in {etag, "*"} for tag in tags)


def _refuse_range(request: Request, size_bytes: int) -> Response:
    error = GatewayError(ErrorCode.RANGE_NOT_SATISFIABLE)
    record_error(request, error)
    headers = {"content-range": f"bytes */{size_bytes}", "accept-ranges": "bytes"}
    return Response(render_error(error), error.row.status, headers, "application/json")
