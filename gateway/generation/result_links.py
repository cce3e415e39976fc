"""The gateway's own links in results: each leads to an image that is stored before the client gets the link.

An image has been paid for before it is stored, so nothing that fails here fails a request. The client then gets the
provider's link, and if the provider gave none, the image itself in base64.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.errors import GatewayError
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, LinkSource, Picture, ResponseFormat, sniff_base64
from gateway.generation.context import GenerationRequest, RequestContext
from gateway.observability.metrics import Metrics
from gateway.storage.links import Links
from gateway.storage.pictures import PictureStore

_PROVIDER: Final = "provider"


@dataclass(slots=True, eq=False)
class ResultLinks:
    """Stores the images of results, and replaces them by links."""

    _pictures: PictureStore
    _links: Links
    _metrics: Metrics

    async def link(
        self, result: ImageResult, request: GenerationRequest, tenant: str, context: RequestContext
    ) -> ImageResult:
        """Returns the result with the gateway's links if the client gets links. Never raises."""
        source, delivery = request.model.links, request.job.delivery
        is_emulated = any(target.emulated for target in request.targets)
        has_files = delivery is ResponseFormat.URL and result.held_bytes > 0
        if source is LinkSource.PROVIDER or not (has_files or source.stores(delivery, is_emulated=is_emulated)):
            return result
        pictures = await asyncio.gather(
            *(self._link(picture, delivery, tenant, context) for picture in result.pictures)
        )
        if is_emulated and context.links == _PROVIDER:
            context.ignored = (*context.ignored, "output_format")
        return replace(result, pictures=tuple(pictures))

    async def _link(self, picture: Picture, delivery: ResponseFormat, tenant: str, context: RequestContext) -> Picture:
        url = await self._store(picture, tenant, context) if isinstance(picture, Base64Image) else ""
        kind = "gateway" if url else _PROVIDER if picture.url else "none"
        self._metrics.links.labels(kind).inc()
        if not url:
            context.links, url = kind, picture.url
        if isinstance(picture, ImageUrl) or delivery is ResponseFormat.BOTH or not url:
            return replace(picture, url=url)
        context.memory.note(-len(picture.base64))
        return ImageUrl(url)

    async def _store(self, picture: Base64Image, tenant: str, context: RequestContext) -> str:
        """Stores an image. Returns: its link; empty if the storage or the key is unavailable."""
        form = sniff_base64(picture.base64)
        stored = await self._pictures.save(tenant, picture, form, context.keep_s) if form else None
        if stored is None:
            return ""
        with suppress(GatewayError):
            url = context.base_url + await self._links.sign(stored)
            context.stored[url] = stored
            return url
        return ""
