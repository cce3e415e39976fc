"""Posts the gateway's own events to the servers of endpoints."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.addresses import is_public_name
from gateway.generation.transport.proxies import ProxyRules

TIMEOUT_S: Final = 20.0
_READ_MAX_BYTES: Final = 64 * 1024
_SHOWN_CHARS: Final = 200
_ERROR_CHARS: Final = 400
"""With the remedy, which is last."""


@dataclass(frozen=True, slots=True)
class PostResult:
    """What became of a post: the response's status and the beginning of its body, or the error without one."""

    status: int | None = None
    retry_after_s: float | None = None
    text: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts through the environment's proxy, or directly.

    A proxy resolves names itself: behind one, only literal addresses can be refused.
    """

    direct: AiohttpTransport
    public: AiohttpTransport
    """Connects to public addresses only."""
    proxies: ProxyRules = field(default_factory=ProxyRules)
    timeout_s: float = TIMEOUT_S

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, is_trusted: bool) -> PostResult:  # noqa: FBT001 - a callable's type has no names
        """Posts once, without following a redirect; at most 64 KiB of the response are read.

        Connects to public addresses only, unless the URL `is_trusted`.
        """
        try:
            proxy = self.proxies.find(url)
            extensions = {
                "timeout": {"connect": self.timeout_s, "read": self.timeout_s},
                "proxy": proxy,
                "setting": "the endpoint's URL",
            }
            request = httpx.Request("POST", url, headers=dict(headers), content=body, extensions=extensions)
            if not is_trusted and not is_public_name(request.url.host):
                return PostResult(error="the address is not public")
            transport = self.direct if is_trusted or proxy else self.public
            async with asyncio.timeout(self.timeout_s):
                response = await transport.handle_async_request(request)
                try:
                    text = await _read(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            return PostResult(error=f"no response within {self.timeout_s:.0f} s")
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            return PostResult(error=str(error)[:_ERROR_CHARS] or type(error).__name__)
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
