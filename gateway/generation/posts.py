"""Sends the gateway's own events to an operator's server."""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from gateway.generation.transport import AiohttpTransport

_TIMEOUT_S: Final = 15.0


async def post(transport: AiohttpTransport, url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    """Returns the HTTP status; None if no response arrived within 15 s. Follows no redirect and reads no body."""
    try:
        timeout = {"connect": _TIMEOUT_S, "read": _TIMEOUT_S}
        request = httpx.Request("POST", url, headers=dict(headers), content=body, extensions={"timeout": timeout})
        async with asyncio.timeout(_TIMEOUT_S):
            response = await transport.handle_async_request(request)
            await response.aclose()
    except (httpx.TransportError, httpx.InvalidURL, TimeoutError):
        return None
    return response.status_code
