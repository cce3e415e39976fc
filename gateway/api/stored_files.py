"""Stored pictures by their signed links, which need no API key."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.bodies import context_of
from gateway.api.errors import unknown_route
from gateway.api.stored_content import respond_with
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.storage.links import Link, Links
from gateway.storage.objects import ObjectNotFoundError
from gateway.storage.pictures import TAG_CHARS, PictureStore

PATH: Final = "/files/{id}.{extension}"
NO_STORAGE: Final = " This server has no storage: set [storage] url."
_LINK_PARTS: Final = ("expires", "kid", "signature")
_REDIRECT_S: Final = 300
"""Life of the bucket's link, for clients that resume a download there."""


@dataclass(frozen=True, slots=True, repr=False)
class StoredFileRoutes:
    """Serves links. `store` is None without a storage."""

    store: PictureStore | None
    links: Links
    throttle: FailedAuthThrottle
    clock: Callable[[], float]
    redirects: bool
    """To links of the bucket, for GET."""

    async def get(self, request: Request) -> Response:
        """Serves a picture, or redirects to it. An `Authorization` header is ignored.

        Raises: GatewayError LINK_INVALID, LINK_EXPIRED, AUTHENTICATION_THROTTLED, NOT_FOUND, STORAGE_UNAVAILABLE,
        TENANT_MEMORY_FULL, MEMORY_FULL, UNKNOWN_ROUTE.
        """
        if self.store is None:
            raise unknown_route(request.scope, NO_STORAGE)
        name, query = "{id}.{extension}".format(**request.path_params), request.query_params
        await self.links.prepare(query.get("kid", ""))
        address = request.client.host if request.client else ""
        verify = partial(self._verify, name, query)
        link = self.throttle.check_first(address, query.get("signature", "missing"), verify)
        context_of(request).memory.tenant = link.id[:TAG_CHARS]
        rest_s = max(0, int(link.expires_s - self.clock()))
        try:
            if self.redirects and request.method == "GET":
                return await self._redirect(link, rest_s)
            opens = partial(self.store.open, link.id, link.format, link.expires_s)
            headers = {
                "cache-control": f"private, max-age={rest_s}, immutable",
                "content-disposition": f'inline; filename="{name}"',
                "cross-origin-resource-policy": "cross-origin",
                "access-control-allow-origin": "*",
            }
            # The bytes of an ID never change.
            return await respond_with(request, f'"{link.id}"', f"image/{link.format.value}", headers, opens)
        except ObjectNotFoundError as error:
            raise GatewayError(ErrorCode.NOT_FOUND, "This image has been deleted.") from error

    def _verify(self, name: str, query: QueryParams) -> Link:
        """Refuses a repeated parameter: readers disagree on which of them counts."""
        if any(len(query.getlist(part)) > 1 for part in _LINK_PARTS):
            raise GatewayError(ErrorCode.LINK_INVALID)
        return self.links.verify(name, query)

    async def _redirect(self, link: Link, rest_s: int) -> Response:
        assert self.store is not None
        life_s = min(rest_s, _REDIRECT_S)
        url = await self.store.sign(link.id, link.format, link.expires_s, life_s)
        return RedirectResponse(url, 302, {"cache-control": f"private, max-age={life_s // 2}"})
