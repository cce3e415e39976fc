"""What a person does in the console for a tenant: its own keys, usage and alerts, and the playground.

The handlers are those of `/v1/tenant`, `/v1/usage` and `/v1/images`; only authentication differs. The playground buys
as the tenant's key labelled `console`, so the tenant's limits hold, and its bill and records name that key.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.models import describe_model
from gateway.api.admin.usage import UsageSection
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import context_of, json_response
from gateway.api.console.access import SAFE, ConsoleAccess, refused
from gateway.api.console.grants import Grants
from gateway.api.images import ImageRoutes
from gateway.api.lead import LeadRoutes
from gateway.api.middleware import AsgiEndpoint
from gateway.api.own_usage import OwnUsageRoutes
from gateway.api.refusals import missing
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import tenant_permission
from gateway.domain.tenants import ApiKey, Principal
from gateway.scheduler import Place
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.names import TenantNames
from gateway.tenants.sessions import Grant
from gateway.tenants.store import TenantStore

PREFIX: Final = "/console/tenant"
FindPlace = Callable[[str], Awaitable[Place | None]]
_PLAYGROUND: Final = "playground"
_MODEL_FIELDS: Final = ("id", "aliases", "price_per_image_usd", "capabilities")
"""What the playground shows of a model; its upstreams are the operator's."""
_GRANT: Final = "console_grant"
"""The key of the request's state with who is signed in."""


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class _SessionAuthenticator(TenantAuthenticator):
    """Authenticates by session instead of by key."""

    access: ConsoleAccess

    async def authorize(self, request: Request, permission: str) -> Grant:
        grant = await self.access.authorize(request, permission)
        request.scope["state"][_GRANT] = grant
        return grant

    def actor(self, request: Request, caller: Principal) -> Actor:  # noqa: ARG002 - as the base
        return Actor(request.scope["state"][_GRANT].subject, context_of(request).id)


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class MemberAuthenticator(_SessionAuthenticator):
    """Authenticates leads and members, whose role decides instead of that of a key."""

    grants: Grants

    async def identify(self, request: Request) -> Principal:
        """Raises: GatewayError SESSION_REQUIRED, CROSS_SITE_REQUEST, NOT_PERMITTED, REDIS_UNAVAILABLE."""
        permission = tenant_permission(request.url.path.removeprefix(PREFIX), request.method)
        grant = await self.authorize(request, permission)
        if not grant.role.has_tenant:
            raise refused(grant.role, permission)
        principal = await self.grants.find(grant)
        if principal is None:
            raise GatewayError(ErrorCode.SESSION_REQUIRED)
        return principal

    async def authenticate_lead(self, request: Request) -> Principal:
        return await self.authenticate_reader(request, allows_lead=True)


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class PlaygroundAuthenticator(_SessionAuthenticator):
    """Authenticates people who may use the playground, as the tenant's key `console`."""

    keys: ApiKeyStore
    names: TenantNames
    tenants: TenantStore

    async def identify(self, request: Request) -> Principal:
        """Returns as whom the person buys. Someone who only reads acts as a key without ID, which buys nothing.

        Raises: GatewayError SESSION_REQUIRED, CROSS_SITE_REQUEST, NOT_PERMITTED, NOT_FOUND, REDIS_UNAVAILABLE.
        """
        grant, named = await self.authorize(request, _PLAYGROUND), request.query_params.get("tenant")
        tenant = grant.tenant
        if not tenant:
            if not named:
                raise missing("tenant")
            tenant = await self.names.resolve(named)
        if request.method in SAFE:
            found = await self.tenants.get(tenant)
            key = ApiKey("", found.name, grant.label, 0)
            principal = None if found.is_disabled else Principal(found, key)
        else:
            context = context_of(request)
            context.is_watched, actor = True, Actor(grant.subject, context.id)
            principal = await self.authenticator.find(await self.keys.console_key(tenant, actor))
        if principal is None:
            text = f"The tenant '{named or tenant}' is disabled, or its key 'console' was just revoked."
            raise GatewayError(ErrorCode.NOT_PERMITTED, text)
        return principal


@dataclass(frozen=True, slots=True, repr=False)
class PersonRoutes:
    """Routes of leads and members, and of the playground."""

    lead: LeadRoutes
    own_usage: OwnUsageRoutes
    images: ImageRoutes
    clock: Callable[[], float]
    find_place: FindPlace

    @staticmethod
    def build(
        members: MemberAuthenticator,
        playground: PlaygroundAuthenticator,
        lead: LeadRoutes,
        usage: UsageSection,
        images: ImageRoutes,
        clock: Callable[[], float],
        find_place: FindPlace,
    ) -> "PersonRoutes":
        """Builds the routes from those of tenants' keys."""
        return PersonRoutes(
            replace(lead, authenticator=members, prefix=PREFIX),
            OwnUsageRoutes(members, usage, f"{PREFIX}/usage_now"),
            replace(images, authenticator=playground),
            clock,
            find_place,
        )

    def routes(self) -> list[Route]:
        return [
            *self.own_usage.routes(),
            *self.lead.routes(),
            Route("/console/models", AsgiEndpoint(self._list_models), methods=["GET"]),
            Route("/console/images/generations", AsgiEndpoint(self.images.generate), methods=["POST"]),
            Route("/console/images/edits", AsgiEndpoint(self.images.edit), methods=["POST"]),
            Route("/console/images/waiting/{id}", AsgiEndpoint(self._get_place), methods=["GET"]),
        ]

    async def _get_place(self, request: Request) -> Response:
        """Returns the place of a request of the tenant in the queue, and the forecast of its wait."""
        caller = await self.images.authenticator.authenticate_reader(request)
        place = await self.find_place(f"{caller.tenant.name}:{request.path_params['id']}")
        wait_s = place.wait_s if place else None
        forecast_s = None if wait_s is None else math.ceil(wait_s)
        return json_response(
            {"waiting": place is not None, "place": place.number if place else None, "forecast_s": forecast_s}
        )

    async def _list_models(self, request: Request) -> Response:
        """Lists the models that the tenant may use, with price and capabilities."""
        caller = await self.images.authenticator.authenticate(request)
        found = {model.id: model for _, model in self.images.catalog.names()}
        allowed, now_s = caller.tenant.models, self.clock()
        described = [
            describe_model(model, now_s) for name, model in found.items() if allowed is None or name in allowed
        ]
        return json_response({"data": [{name: model[name] for name in _MODEL_FIELDS} for model in described]})
