"""Restricts operators' routes to their own ports, and checks the Host header there."""

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
    """A port for operators: the routes that only it serves, and its host names."""

    number: int
    owns: Callable[[str], bool]
    hosts: frozenset[str]


def port_of(scope: Scope) -> int | None:
    """The port of the connection, which no header can change; None on a unix socket."""
    port: int | None = (scope.get("server") or ("", None))[1]
    return port


class DedicatedPortMiddleware:
    """Serves operators' routes only on their ports and in their unencoded form.

    A proxy that denies `/admin/` may compare undecoded paths. So an operators' path with an encoded slash, or with an
    encoded character that needs no encoding, gets 404.
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
        dedicated = next((candidate for candidate in self._own if candidate.number == port), None)
        if dedicated is None:
            if any(candidate.owns(path) for candidate in self._own):
                raise HTTPException(404)
        elif not _is_allowed_host(dedicated, scope):
            raise GatewayError(ErrorCode.HOST_NOT_ALLOWED)
        elif not dedicated.owns(path) and path not in _ON_EVERY_PORT:
            raise HTTPException(404)


def _is_allowed_host(port: DedicatedPort, scope: Scope) -> bool:
    """Returns whether the Host header rules out DNS rebinding, which needs a name that an attacker controls.

    On loopback, only loopback addresses are accepted.
    """
    host_header = Headers(scope=scope).get("host", "localhost")
    host = host_header[1:].partition("]")[0] if host_header.startswith("[") else host_header.partition(":")[0]
    if host.lower() in port.hosts | {"localhost"}:
        return True
    try:
        return ip_address(host).is_loopback or not ip_address(scope["server"][0]).is_loopback
    except ValueError:
        return False
