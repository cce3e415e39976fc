"""Downloads images that upstreams deliver as links, for callers that get base64, or links to stored images.

Links are untrusted. They are followed only to allow-listed hosts and public addresses, without credentials or
redirects, up to a byte limit.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

import httpx
import pybase64
import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageUrl, Picture, ResponseFormat, sniff
from gateway.generation.conversion import ImageConverter
from gateway.generation.exchange import find_proxy, read_reply
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.transport.addresses import is_public_name
from gateway.generation.transport.proxies import ProxyRules
from gateway.providers.links import LinkPolicy, LinkTrust, host_of, secured

_LOG = structlog.get_logger("imagegate.results")
_TRIES: Final = 3
"""Attempts per download, as the vendors' own clients make (reference/minimax.md section 7)."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits of one download."""

    connect_timeout_s: float
    timeout_s: float
    max_bytes: int


@dataclass(slots=True, eq=False)
class ImageDownloader:
    """Converts links to images, or to links that the client can use."""

    _public: httpx.AsyncBaseTransport
    """Connects to public addresses only."""
    _named: httpx.AsyncBaseTransport
    """Connects to origins that the operator configured."""
    _limits: DownloadLimits
    _user_agent: str
    _converter: ImageConverter | None = None
    """Cuts grids; None if no upstream makes them."""

    async def deliver(
        self,
        pictures: tuple[Picture, ...],
        delivery: ResponseFormat,
        links: LinkPolicy,
        remaining_s: float,
        memory: ByteAccount | None = None,
        proxies: ProxyRules | None = None,
        *,
        to_cut: int = 0,
    ) -> tuple[Picture, ...]:
        """Returns the images in the requested format; those not downloaded within `remaining_s` are left out.

        If `to_cut` images are in each picture, they are base64 in every format: no link leads to one of them.

        With `BOTH` they stay as links, which are paid for, and all attempts together last at most as long as one.
        Downloads count against `memory`.
        """
        if to_cut:
            whole = await self.deliver(pictures, ResponseFormat.BASE64, links, remaining_s, memory, proxies)
            return await self._cut(whole, to_cut, memory or ByteAccount())
        if delivery is ResponseFormat.URL:  # at once: the release and the settlement then share a message to Redis
            return tuple(ImageUrl(links.client_url(one.url)) if isinstance(one, ImageUrl) else one for one in pictures)
        account, is_both = memory or ByteAccount(), delivery is ResponseFormat.BOTH
        limit_s = min(remaining_s, self._limits.timeout_s) if is_both else remaining_s

        async def receive(picture: Picture) -> Picture | None:
            if isinstance(picture, Base64Image):
                return picture
            try:
                async with asyncio.timeout(limit_s):
                    encoded = await self._encode(picture.url, links, account, proxies or ProxyRules())
            except TimeoutError:
                _LOG.warning("download_attempt_failed", detail=f"not complete within {limit_s:.0f} s")
                encoded = None
            if not is_both:
                return encoded
            link = links.client_url(picture.url)
            return replace(encoded, url=link) if encoded else ImageUrl(link)

        received = await asyncio.gather(*map(receive, pictures))
        return tuple(picture for picture in received if picture)

    async def _cut(self, pictures: tuple[Picture, ...], count: int, memory: ByteAccount) -> tuple[Picture, ...]:
        assert self._converter
        grids = [picture for picture in pictures if isinstance(picture, Base64Image)]
        cut = await asyncio.gather(*(self._converter.cut(grid, count, memory) for grid in grids))
        return tuple(image for images in cut for image in images)

    async def _encode(
        self, url: str, links: LinkPolicy, memory: ByteAccount, proxies: ProxyRules
    ) -> Base64Image | None:
        trust = links.trust(url)
        if trust is LinkTrust.NONE:
            _LOG.error("download_host_not_allowed", host=host_of(url), hint="add it to the upstream's result_hosts")
            return None
        if trust is LinkTrust.PUBLIC:  # plain HTTP only if the operator configured it
            url = secured(url)
        for _ in range(_TRIES):
            try:
                data = await self._fetch(url, trust, memory, proxies)
            except GatewayError as error:
                code = error.error_code.value
                _LOG.warning("download_attempt_failed", host=host_of(url), error_code=code, detail=error.detail)
            else:
                await memory.wait_for((len(data) + 2) // 3 * 4)
                encoded = memoryview(pybase64.b64encode(data))
                memory.note(-len(data))
                return Base64Image(encoded)
        return None

    async def _fetch(self, url: str, trust: LinkTrust, memory: ByteAccount, proxies: ProxyRules) -> bytes | bytearray:
        """Downloads an image. Raises: GatewayError of the network, UNEXPECTED_RESPONSE if it is not an image.

        Behind a proxy, which resolves the name, only literal addresses can be checked.
        """
        limits = self._limits
        headers = {"accept": "image/*", "accept-encoding": "identity", "user-agent": self._user_agent}
        timeout, proxy = {"connect": limits.connect_timeout_s, "read": limits.timeout_s}, find_proxy(proxies, url)
        try:
            request = httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout, "proxy": proxy})
        except (httpx.InvalidURL, ValueError) as error:
            raise GatewayError(ErrorCode.UNEXPECTED_RESPONSE, "not a valid URL") from error
        if trust is LinkTrust.PUBLIC and not is_public_name(request.url.host):
            raise GatewayError(ErrorCode.NOT_SENT, "the address is not public")
        transport = self._named if trust is LinkTrust.NAMED or proxy else self._public
        try:
            async with asyncio.timeout(limits.timeout_s):
                reply = await read_reply(transport, request, limits.max_bytes, memory)
        except TimeoutError as error:
            detail = f"no complete image within {limits.timeout_s:.0f} s"
            raise GatewayError(ErrorCode.READ_TIMEOUT, detail) from error
        if reply.status != 200 or sniff(reply.body) is None:
            memory.note(-len(reply.body))
            detail = f"HTTP {reply.status}, {len(reply.body)} bytes, not an image"
            raise GatewayError(ErrorCode.UNEXPECTED_RESPONSE, detail)
        return reply.body
