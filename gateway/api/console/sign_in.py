"""`/console/session`: signing in by a key or a one-time link, who is signed in, and signing out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import structlog
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.api.admin import AdminKey, find_admin_key
from gateway.api.admin.schemas import Schema, read_document
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.bodies import BodyLimits, context_of, json_response
from gateway.api.console.access import COOKIE, ConsoleAccess, check_origin, delete_cookie, is_secure, set_cookie
from gateway.api.console.features import served
from gateway.api.console.grants import grant_of
from gateway.api.middleware import AsgiEndpoint
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import PERMISSIONS, ConsoleRole
from gateway.domain.tenants import KEY_PREFIX, LEAD
from gateway.tenants.authentication import Authenticator
from gateway.tenants.names import TenantNames
from gateway.tenants.sessions import Grant, LinkStore, OpenSession

_LOG = structlog.get_logger("imagegate.console")
_Secret = Annotated[str, Meta(min_length=1, max_length=500)]


class _KeySignIn(Schema):
    key: _Secret


class _LinkSignIn(Schema):
    token: _Secret


@dataclass(frozen=True, slots=True, repr=False)
class SignInTerms:
    """What the console says before a person signs in, and how a person may."""

    organisation: str
    time_zone: str
    admin_keys: Sequence[AdminKey]
    """Keys that may sign in; empty if that is switched off."""
    oidc: Mapping[str, str] | None = None
    """The label and the address of the identity provider's button; None without one."""


@dataclass(frozen=True, slots=True, repr=False)
class SignInRoutes:
    """Request handlers."""

    access: ConsoleAccess
    links: LinkStore
    authenticator: Authenticator
    throttle: FailedAuthThrottle
    names: TenantNames
    limits: BodyLimits
    terms: SignInTerms

    def routes(self) -> list[Route]:
        handlers = {
            "/console/session": {"GET": self.show, "POST": self.sign_in, "DELETE": self.sign_out},
            "/console/session/link": {"POST": self.redeem},
        }
        return [
            Route(path, AsgiEndpoint(handle), methods=[method])
            for path, by_method in handlers.items()
            for method, handle in by_method.items()
        ]

    async def show(self, request: Request) -> Response:
        session = await self.access.find(request)
        if session:
            return json_response(await self._describe(session))
        ways = {"admin_key": bool(self.terms.admin_keys), "tenant_key": True, "oidc": self.terms.oidc}
        about = {"organisation": self.terms.organisation, "version": __version__}
        return json_response({"signed_in": False, "sign_in": ways, "secure": is_secure(request)} | about)

    async def sign_in(self, request: Request) -> Response:
        """Exchanges a key for a session."""
        check_origin(request)
        _require_secure(request)
        secret = (await read_document(request, self.limits, _KeySignIn)).key.strip()
        address = request.client.host if request.client else ""
        if not secret.startswith(KEY_PREFIX):
            grant = self.throttle.check_first(address, secret, partial(self._grant_admin, secret))
        else:
            bearer = f"Bearer {secret}"
            grant = await self.throttle.check_tenant(address, bearer, partial(self._grant_tenant, bearer))
        return await self.open(request, grant)

    async def redeem(self, request: Request) -> Response:
        """Exchanges the token of a one-time link for a session."""
        check_origin(request)
        _require_secure(request)  # before the link is used up
        token = (await read_document(request, self.limits, _LinkSignIn)).token
        address = request.client.host if request.client else ""
        grant = await self.throttle.check_tenant(address, f"Bearer {token}", partial(self._grant_link, token))
        return await self.open(request, grant)

    async def sign_out(self, request: Request) -> Response:
        check_origin(request)
        if token := request.cookies.get(COOKIE):
            await self.access.sessions.close(token)
        response = json_response({"signed_in": False})
        delete_cookie(response)
        return response

    async def open(
        self, request: Request, grant: Grant, response: Response | None = None, expires_at: int | None = None
    ) -> Response:
        """Opens a session of its own for each sign-in, and ends the one that the browser had.

        Returns: `response` with the cookie; by default the session as JSON.
        """
        if former := request.cookies.get(COOKIE):
            await self.access.sessions.close(former)
        token, session = await self.access.sessions.open(grant, expires_at)
        context_of(request).admin = grant.subject
        _LOG.info("console_signed_in", subject=grant.subject, role=grant.role.value, method=grant.method)
        response = response or json_response(await self._describe(session))
        set_cookie(response, token, session.expires_at - session.created_at)
        return response

    def _grant_admin(self, secret: str) -> Grant:
        """Raises: GatewayError ADMIN_UNAUTHORIZED."""
        key = find_admin_key(self.terms.admin_keys, secret)
        if key is None:
            text = "This key is neither an admin key that may sign in nor a tenant's key."
            raise GatewayError(ErrorCode.ADMIN_UNAUTHORIZED, text)
        return grant_of(key)

    async def _grant_tenant(self, bearer: str) -> Grant:
        """Raises: GatewayError INVALID_API_KEY, REDIS_UNAVAILABLE."""
        key = (await self.authenticator.identify(bearer)).key
        role = ConsoleRole.LEAD if key.role == LEAD else ConsoleRole.MEMBER
        return Grant(
            subject=f"key:{key.id}",
            label=key.label or key.id,
            role=role,
            tenant=key.tenant,
            method="tenant_key",
            credential=key.id,
            proof=await self.authenticator.proof_of(bearer),
        )

    async def _grant_link(self, token: str) -> Grant:
        """Raises: GatewayError INVITATION_INVALID, REDIS_UNAVAILABLE."""
        link = await self.links.redeem(token)
        if link is None:
            raise GatewayError(ErrorCode.INVITATION_INVALID)
        return Grant(subject=f"link:{link.name}", label=link.name, role=link.role, tenant=link.tenant, method="link")

    async def _describe(self, session: OpenSession) -> dict[str, object]:
        grant = session.grant
        names = await self.names.all_current() if grant.choices else {}
        return {
            "signed_in": True,
            "label": grant.label,
            "subject": grant.subject,
            "role": grant.role.value,
            "tenant": await self.names.current(grant.tenant) if grant.tenant else None,
            "other_tenants": [
                {"tenant": names.get(one.tenant, one.tenant), "role": one.role.value}
                for one in grant.choices
                if one.tenant != grant.tenant
            ],
            "may": sorted(PERMISSIONS[grant.role]),
            "api": served("/v1/tenant" if grant.role.has_tenant else "/admin/v1"),
            "expires_at": session.expires_at,
            "idle_expires_at": session.idle_expires_at,
            "version": __version__,
            "organisation": self.terms.organisation,
            "time_zone": self.terms.time_zone,
        }


def _require_secure(request: Request) -> None:
    """Raises: GatewayError COOKIE_NOT_POSSIBLE."""
    if not is_secure(request):
        raise GatewayError(ErrorCode.COOKIE_NOT_POSSIBLE)
