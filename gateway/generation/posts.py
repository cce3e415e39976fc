"""Posts the gateway's own events to the servers of endpoints."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from gateway.generation.transport import AiohttpTransport

TIMEOUT_S: Final = 20.0
_READ_MAX_BYTES: Final = 64 * 1024
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class PostResult:
    """What became of a post: the response's status and the beginning of its body, or the error without one."""

    status: int | None = None
    retry_after_s: float | None = None
    text: str = ""
    error: str = ""


async def post(
    transport: AiohttpTransport, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float = TIMEOUT_S
) -> PostResult:
    """Posts once, without following a redirect; at most 64 KiB of the response are read."""
    try:
        timeout = {"connect": timeout_s, "read": timeout_s}
        request = httpx.Request("POST", url, headers=dict(headers), content=body, extensions={"timeout": timeout})
        async with asyncio.timeout(timeout_s):
            response = await transport.handle_async_request(request)
            try:
                text = await _read(response)
            finally:
                await response.aclose()
    except (TimeoutError, httpx.TimeoutException):
        return PostResult(error=f"no response within {timeout_s:.0f} s")
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return PostResult(error=str(error)[:_SHOWN_CHARS] or type(error).__name__)
    return PostResult(response.status_code, _retry_after_s(response.headers), text)


async def _read(response: httpx.Response) -> str:
    """Returns the beginning of the body as text that a terminal can show. An error in the body is its end."""
    read = b""
    try:
        async for piece in response.aiter_raw():
            read += piece
            if len(read) >= _READ_MAX_BYTES:
                break
    except httpx.TransportError:
        pass
    text = read[: 4 * _SHOWN_CHARS].decode("utf-8", "replace")
    return "".join(one if one.isprintable() else " " for one in text)[:_SHOWN_CHARS].strip()


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Reads seconds or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None
