"""Responses with stored content: conditional requests and byte ranges (RFC 9110 sections 13 and 14)."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.api.bodies import context_of, split_chunk
from gateway.api.errors import record_error
from gateway.api.openai_responses import render_error
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount

_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.ASCII | re.IGNORECASE)
"""One range. Several are answered with the whole content, which RFC 9110 section 14.2 allows."""

OpenContent = Callable[[int, int], Awaitable[AsyncIterable[bytes | memoryview]]]
"""Opens the bytes from a start to before an end."""


async def serve_content(
    request: Request, size_bytes: int, etag: str, headers: Mapping[str, str], open_content: OpenContent
) -> Response:
    """Serves GET and HEAD of a content that never changes: 200, 206, 304 or 416. HEAD opens nothing.

    Raises: what `open_content` raises, before the response begins. A later failure aborts the response.
    """
    named = {"accept-ranges": "bytes", "etag": etag} | dict(headers)
    if _is_known(request.headers, etag):
        return Response(None, 304, named)
    start, end = _select(request.headers, etag, size_bytes)
    if start >= end and size_bytes:
        error = GatewayError(
            ErrorCode.INVALID_VALUE, f"The range begins after the last of {size_bytes} bytes.", param="range"
        )
        record_error(request, error)
        return Response(
            render_error(error), 416, {"content-range": f"bytes */{size_bytes}"}, media_type="application/json"
        )
    named["content-length"] = str(end - start)
    if (start, end) != (0, size_bytes):
        named["content-range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    status = 206 if "content-range" in named else 200
    if request.method == "HEAD" or not size_bytes:
        return Response(None, status, named)
    return StreamingResponse(_send(await open_content(start, end), context_of(request).memory), status, named)


def _is_known(headers: Headers, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return etag in tags or tags == ["*"]


def _select(headers: Headers, etag: str, size_bytes: int) -> tuple[int, int]:
    """Returns the start and the end of the part that is asked for; the whole for a header that has no effect."""
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    first, last = found.groups() if found else ("", "")
    is_reversed = bool(first and last) and int(last) < int(first)
    if not (first or last) or is_reversed or headers.get("if-range", etag) != etag:
        return 0, size_bytes
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    return int(first), min(int(last) + 1, size_bytes) if last else size_bytes


async def _send(content: AsyncIterable[bytes | memoryview], memory: ByteAccount) -> AsyncIterator[memoryview]:
    """Counts each chunk while the client receives it."""
    async for chunk in content:
        memory.note(len(chunk))
        for part in split_chunk(chunk):
            yield memoryview(part)
        memory.note(-len(chunk))
