"""Binds operators' routes to their ports, and checks the Host header there."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.domain.errors import ErrorCode, GatewayError

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
OPENAPI: Final = "/openapi.json"
_ON_EVERY_PORT: Final = frozenset({HEALTHZ, READYZ})
_OPERATORS: Final = frozenset({HEALTHZ, READYZ, METRICS, OPENAPI, "/admin"})

_OTHER_SPELLING: Final = re.compile(rb"(?i)%(2[def]|3[0-9]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9ae])")
"""Encoded unreserved characters (RFC 3986 section 2.3), slashes and backslashes."""


def is_admin(path: str) -> bool:
    return path.startswith("/admin/")


def is_metrics(path: str) -> bool:
    return path == METRICS


@dataclass(frozen=True, slots=True)
class DedicatedPort:
    """A port of operators: the routes that only it serves, and its host names."""

    number: int
    owns: Callable[[str], bool]
    hosts: frozenset[str]


def port_of(scope: Scope) -> int | None:
    """The port of the connection, which no header can change; None on a unix socket."""
    port: int | None = (scope.get("server") or ("", None))[1]
    return port


class DedicatedPortMiddleware:
    """Keeps operators' routes to their ports and to their plain spelling.

    A proxy that denies `/admin/` may compare undecoded paths. So an operators' route with an encoded slash, or with an
    encoded character that needs no encoding, is unknown.
    """

    def __init__(self, app: ASGIApp, own: Sequence[DedicatedPort]) -> None:
        self._app = app
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: HTTPException 404, GatewayError HOST_NOT_ALLOWED."""
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path, port = scope["path"], port_of(scope)
        if (path in _OPERATORS or is_admin(path)) and _OTHER_SPELLING.search(scope["raw_path"]):
            raise HTTPException(404)
        own = next((one for one in self._own if one.number == port), None)
        if own is None:
            if any(one.owns(path) for one in self._own):
                raise HTTPException(404)
        elif not _answers_to(own, scope):
            raise GatewayError(ErrorCode.HOST_NOT_ALLOWED)
        elif not own.owns(path) and path not in _ON_EVERY_PORT:
            raise HTTPException(404)


def _answers_to(own: DedicatedPort, scope: Scope) -> bool:
    """Whether the Host header rules out DNS rebinding, which needs a name that an attacker controls.

    On loopback, only loopback addresses are accepted.
    """
    given = Headers(scope=scope).get("host", "localhost")
    host = given[1:].partition("]")[0] if given.startswith("[") else given.partition(":")[0]
    if host.lower() in own.hosts | {"localhost"}:
        return True
    try:
        return ip_address(host).is_loopback or not ip_address(scope["server"][0]).is_loopback
    except ValueError:
        return False
