"""Downloads images that upstreams deliver as links, for callers that want base64.

Links are untrusted. They are followed only to allow-listed hosts and public addresses, without credentials or
redirects, up to a byte limit.
"""

import asyncio
import binascii
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageUrl, Picture, ResponseFormat, sniff
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.responses import read_reply
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


class ImageDownloader:
    """Converts links to images, or to links that the client can use."""

    def __init__(
        self,
        public: httpx.AsyncBaseTransport,
        named: httpx.AsyncBaseTransport,
        limits: DownloadLimits,
        user_agent: str,
    ) -> None:
        """`public` connects to public addresses only; `named` connects to origins that the operator configured."""
        self._public = public
        self._named = named
        self._limits = limits
        self._user_agent = user_agent

    async def deliver(
        self,
        pictures: tuple[Picture, ...],
        delivery: ResponseFormat,
        links: LinkPolicy,
        remaining_s: float,
        memory: ByteAccount | None = None,
    ) -> tuple[Picture, ...]:
        """Returns the images in the requested format; those not downloaded within `remaining_s` are left out.

        Downloads count against `memory`.
        """
        if delivery is ResponseFormat.URL:
            return tuple(_hand_on(picture, links) for picture in pictures)
        if all(isinstance(picture, Base64Image) for picture in pictures):
            return pictures
        account = memory or ByteAccount()
        fetched = await asyncio.gather(*(self._encode_within(remaining_s, one, links, account) for one in pictures))
        return tuple(encoded for encoded in fetched if encoded)

    async def _encode_within(
        self, remaining_s: float, picture: Picture, links: LinkPolicy, memory: ByteAccount
    ) -> Base64Image | None:
        try:
            async with asyncio.timeout(remaining_s):
                return await self._encode(picture, links, memory)
        except TimeoutError:
            _LOG.warning("download_attempt_failed", detail="the request's deadline passed")
            return None

    async def _encode(self, picture: Picture, links: LinkPolicy, memory: ByteAccount) -> Base64Image | None:
        if isinstance(picture, Base64Image):
            return picture
        trust = links.trust(picture.url)
        if trust is LinkTrust.NONE:
            _LOG.error(
                "download_host_not_allowed", host=host_of(picture.url), hint="add it to the upstream's result_hosts"
            )
            return None
        url = (
            picture.url if trust is LinkTrust.NAMED else secured(picture.url)
        )  # plain HTTP only if the operator configured it
        for _ in range(_TRIES):
            try:
                data = await self._fetch(url, trust, memory)
            except GatewayError as error:
                _LOG.warning(
                    "download_attempt_failed", host=host_of(url), error_code=error.error_code.value, detail=error.detail
                )
            else:
                await memory.wait_for(_base64_bytes(len(data)))
                encoded = memoryview(binascii.b2a_base64(data, newline=False))
                memory.note(-len(data))
                return Base64Image(encoded)
        return None

    async def _fetch(self, url: str, trust: LinkTrust, memory: ByteAccount) -> bytes | bytearray:
        """Downloads an image. Raises: GatewayError of the network, UNEXPECTED_RESPONSE if it is not an image."""
        try:
            request = self._build_request(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise GatewayError(ErrorCode.UNEXPECTED_RESPONSE, "not a valid URL") from error
        transport = self._named if trust is LinkTrust.NAMED else self._public
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                reply = await read_reply(transport, request, self._limits.max_bytes, memory)
        except TimeoutError as error:
            raise GatewayError(
                ErrorCode.READ_TIMEOUT, f"no complete image within {self._limits.timeout_s:.0f} s"
            ) from error
        if reply.status != 200 or sniff(reply.body) is None:
            memory.note(-len(reply.body))
            raise GatewayError(
                ErrorCode.UNEXPECTED_RESPONSE, f"HTTP {reply.status}, {len(reply.body)} bytes, not an image"
            )
        return reply.body

    def _build_request(self, url: str) -> httpx.Request:
        return httpx.Request(
            "GET",
            url,
            headers={"accept": "image/*", "accept-encoding": "identity", "user-agent": self._user_agent},
            extensions={"timeout": {"connect": self._limits.connect_timeout_s, "read": self._limits.timeout_s}},
        )


def _base64_bytes(count: int) -> int:
    return (count + 2) // 3 * 4


def _hand_on(picture: Picture, links: LinkPolicy) -> Picture:
    return ImageUrl(links.client_url(picture.url)) if isinstance(picture, ImageUrl) else picture
