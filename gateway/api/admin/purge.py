"""`/admin/v1/tenants/{name}/purge`: deletes a tenant for good."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.events.endpoint_store import EndpointStore
from gateway.metering.purge import TenantPurger
from gateway.tenants.store import TenantStore


@dataclass(frozen=True, slots=True, repr=False)
class PurgeSection:
    """The route that begins a purge."""

    purger: TenantPurger
    tenants: TenantStore
    endpoints: EndpointStore
    erase: Callable[[str], Awaitable[None]] | None
    """Begins to delete what a tenant has stored, and ends its batches; None without storage."""

    def handlers(self) -> Handlers:
        return {"/tenants/{name}/purge": {"POST": self.purge}}

    async def purge(self, request: Request, actor: Actor) -> Response:
        """Disables the tenant, then begins to delete all of it but its bill."""
        tenant_id = request.path_params["name"]
        tenant = await self.tenants.get(tenant_id)
        if tenant.is_declared:
            text = f"'{tenant.current_name}' is declared in the configuration. Remove it there, and reload, first."
            raise GatewayError(ErrorCode.CONFLICT, text)
        if declared := await self.endpoints.declared_of(tenant_id):
            remedy = "Remove it from [[alerts.endpoints]], and reload, first."
            text = f"'{declared[0]}' gets the events of '{tenant.current_name}'. {remedy}"
            raise GatewayError(ErrorCode.CONFLICT, text)
        disabled = partial(replace, is_disabled=True, disabled_by=actor.name)
        await self.tenants.update(tenant_id, disabled, actor)
        if self.erase:
            await self.erase(tenant_id)
        pseudonym = await self.purger.begin(tenant_id, actor)  # last: a purge of an enabled tenant ends
        return json_response({"name": tenant.current_name, "pseudonym": pseudonym}, 202)
