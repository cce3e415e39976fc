"""Addresses of the tenant API: which route a path means, and which one it may have meant.

Clients append a path to a configured base URL. That URL often has a slash too many, `/v1` twice or not at all, and
Azure's clients have prefixes of their own. What remains without the prefixes decides the route.

Invariant: a repaired path is a route of the tenant API, and an encoded character is never part of what is repaired. So
no spelling leads to an operators' route, and metrics and errors see the canonical path only.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import dropwhile
from typing import Final
from urllib.parse import unquote

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.errors import IMAGES_ONLY, NOT_OFFERED, unknown_route
from gateway.api.middleware import is_operators

DEPLOYMENT: Final = "deployment"
"""The path parameter with the model that Azure's paths name."""
_ROOT: Final = "/v1/"
_PREFIXES: Final = frozenset({"v1", "openai", "minimaxi"})
"""Segments that may precede a route's own: OpenAI's, Azure's and 302.AI's."""
_DEPLOYMENTS: Final = "deployments"
_COMPARED_CHARS: Final = 128
"""Limit on the part of an unknown path that is compared: the cost grows with it, and needs no key."""
_SIMILARITY_MIN: Final = 0.64


class Addresses:
    """The tenant API's routes, by the paths that mean them.

    Azure's `/openai/deployments/{model}/images/generations` becomes `/v1/images/generations` with the model in the path
    parameter `deployment`.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        fixed = [route for route in routes if not route.param_convertors]
        self._paths = {route.path for route in fixed}
        self._routes = routes
        offered = [route for route in fixed if route.path.startswith(_ROOT) and route.path not in NOT_OFFERED]
        self._by_name = {route.path.removeprefix(_ROOT): route for route in offered}

    def repair(self, scope: Scope) -> None:
        """Changes the path of a request to that of the route it means; other paths remain as they are."""
        if scope["path"] in self._paths or self._is_route(scope["path"]):
            return
        name, deployment = _split(scope["raw_path"].decode("latin-1"), _PREFIXES)
        path = _ROOT + name
        if self._is_route(path):
            scope["path"] = unquote(path)
            if deployment:
                scope["path_params"] = {DEPLOYMENT: unquote(deployment)}

    def _is_route(self, path: str) -> bool:
        """Returns True if a path leads to a route, with no parameter empty."""
        matches = (route.path_regex.match(path) for route in self._routes)
        return any(match is not None and all(match.groups()) for match in matches)

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Refuses a path without a route. Raises: GatewayError UNKNOWN_ROUTE, with the closest route or all."""
        raise unknown_route(scope, "" if is_operators(scope["path"]) else self._suggest(scope["path"]))

    def _suggest(self, path: str) -> str:
        """Returns a sentence with the closest route, or with what this server offers if none is close."""
        name, _ = _split(path[:_COMPARED_CHARS].lower(), _PREFIXES | {"api"})
        found = [known for known in self._by_name if name and known.startswith(name)]
        found = found or get_close_matches(name, self._by_name, 1, _SIMILARITY_MIN)
        if not found:
            return IMAGES_ONLY
        route = self._by_name[found[0]]
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        return f"Did you mean {method} {route.path}?"


def _split(path: str, prefixes: frozenset[str]) -> tuple[str, str]:
    """Returns a path without empty segments and prefixes, and Azure's deployment, which may have slashes, or empty."""
    rest = list(dropwhile(prefixes.__contains__, filter(None, path.split("/"))))
    if rest[:1] == [_DEPLOYMENTS] and len(rest) > 3:
        return "/".join(rest[-2:]), "/".join(rest[1:-2])
    return "/".join(rest), ""


@dataclass(frozen=True, slots=True, repr=False)
class AddressMiddleware:
    """Repairs the path of each request."""

    app: ASGIApp
    addresses: Addresses

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            self.addresses.repair(scope)
        return self.app(scope, receive, send)  # not awaited here: a waiting request has one frame less
