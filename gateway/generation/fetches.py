"""Fetches documents of servers that the configuration names, such as an identity provider's."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.proxies import ProxyRules

TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 256 * 1024
_ERROR_CHARS: Final = 400
"""With the remedy, which is last."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The response's status and body, or the error without one."""

    status: int = 0
    body: bytes = field(default=b"", repr=False)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches through the environment's proxy, or directly."""

    direct: AiohttpTransport
    proxies: ProxyRules = field(default_factory=ProxyRules)
    timeout_s: float = TIMEOUT_S

    async def fetch(self, url: str, headers: Mapping[str, str], form: bytes | None = None) -> FetchResult:
        """Gets a document, or posts a form. Follows no redirect, and reads at most 256 KiB."""
        limit = {"connect": self.timeout_s, "read": self.timeout_s}
        try:
            extensions = {"timeout": limit, "proxy": self.proxies.find(url), "setting": "console.oidc.issuer"}
            request = httpx.Request(
                "GET" if form is None else "POST", url, headers=dict(headers), content=form, extensions=extensions
            )
            async with asyncio.timeout(self.timeout_s):
                response = await self.direct.handle_async_request(request)
                try:
                    return FetchResult(response.status_code, await _read(response))
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            return FetchResult(error=f"no response within {self.timeout_s:.0f} s")
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            return FetchResult(error=str(error)[:_ERROR_CHARS] or type(error).__name__)


async def _read(response: httpx.Response) -> bytes:
    """Raises: ValueError for a body that is too large."""
    read = bytearray()
    async for piece in response.aiter_raw():
        read += piece
        if len(read) > MAX_BYTES:
            raise ValueError(f"the response has more than {MAX_BYTES} bytes")
    return bytes(read)
