"""Sessions in requests: the cookie, protection against other sites, and what the person may do.

A browser sends the cookie also with requests that another site makes. `SameSite=Strict` prevents that. A method
that changes something also needs the header `x-imagegate-console`, which another site cannot send without a preflight,
and `Sec-Fetch-Site: same-origin`. Without that header of the browser, `Origin` must name this host.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import HELD
from gateway.api.bodies import context_of
from gateway.api.public_url import base_url, is_protected
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import PERMISSIONS, ConsoleRole
from gateway.tenants.sessions import Grant, OpenSession, SessionStore

COOKIE: Final = "__Host-imagegate"
"""The prefix `__Host-` makes browsers refuse it without `Secure`, with a domain, or for a part of the paths."""
OWN_HEADER: Final = "x-imagegate-console"
SAFE: Final = frozenset({"GET", "HEAD"})
_MAX_CHARS: Final = 128
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, repr=False)
class ConsoleAccess:
    """Finds the session of a request, and what it may do."""

    sessions: SessionStore
    is_in_force: Callable[[Grant], Awaitable[bool]]
    """Returns whether the credential of a sign-in is still valid."""

    async def find(self, request: Request) -> OpenSession | None:
        """Returns the session of a request; None if there is none, or if it has ended.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        token = request.cookies.get(COOKIE, "")
        session = await self.sessions.read(token) if 0 < len(token) <= _MAX_CHARS else None
        if session and not await self.is_in_force(session.grant):
            await self.sessions.close(token)
            return None
        return session

    async def authorize(self, request: Request, permission: str) -> Grant:
        """Returns whose request it is.

        Raises: GatewayError SESSION_REQUIRED, CROSS_SITE_REQUEST, NOT_PERMITTED, REDIS_UNAVAILABLE.
        """
        check_origin(request)
        session = await self.find(request)
        if session is None:
            raise GatewayError(ErrorCode.SESSION_REQUIRED)
        context_of(request).admin = session.grant.subject
        if permission not in PERMISSIONS[session.grant.role]:
            raise refused(session.grant.role, permission)
        return session.grant

    async def authorize_admin(self, request: Request, permission: str) -> Actor | None:
        """Returns who makes a request to the admin API; None if it has no cookie. Raises: as `authorize`."""
        if COOKIE not in request.cookies:
            return None
        grant = await self.authorize(request, permission)
        if grant.role.has_tenant:
            raise refused(grant.role, permission)
        request.scope["state"][HELD] = PERMISSIONS[grant.role]
        return Actor(grant.subject, context_of(request).id, grant.role)


def refused(role: ConsoleRole, permission: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_PERMITTED, f"The role '{role.value}' may not do this: it lacks '{permission}'.")


def check_origin(request: Request) -> None:
    """Refuses what a page of another site may have sent. Raises: GatewayError CROSS_SITE_REQUEST."""
    if request.method in SAFE:
        return
    headers = request.headers
    if OWN_HEADER not in headers:
        raise GatewayError(ErrorCode.CROSS_SITE_REQUEST, f"The header '{OWN_HEADER}: 1' is missing.")
    if (site := headers.get("sec-fetch-site")) is not None:
        if site != "same-origin":
            raise GatewayError(ErrorCode.CROSS_SITE_REQUEST)
    elif not _is_own_origin(request):
        text = "The browser sent no Sec-Fetch-Site, and the header Origin is missing or names another host."
        raise GatewayError(ErrorCode.CROSS_SITE_REQUEST, text)


def is_secure(request: Request) -> bool:
    """Returns whether the browser stores a `Secure` cookie: with TLS, or on this machine.

    A proxy may end TLS without saying so. Browsers send `Sec-Fetch-Site` only to origins that they trust.
    """
    if request.url.scheme == "https" or "sec-fetch-site" in request.headers:
        return True
    if urlsplit(request.headers.get("origin", "")).scheme == "https":
        return True
    return is_protected(base_url(request))


def set_cookie(response: Response, token: str, max_age_s: int) -> None:
    response.set_cookie(COOKIE, token, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="strict")


def delete_cookie(response: Response) -> None:
    set_cookie(response, "", 0)


def _is_own_origin(request: Request) -> bool:
    """Compares host and port; the scheme may be that of a proxy before this server."""
    try:
        sent, own = urlsplit(request.headers.get("origin", "")), urlsplit(base_url(request))
        ports = [url.port or _PORTS.get(sent.scheme) for url in (sent, own)]
    except ValueError:
        return False
    return bool(sent.hostname) and sent.hostname == own.hostname and ports[0] == ports[1]
