"""`/admin/v1/audit`: the log of administrative changes."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.periods import parse_before, parse_utc_days
from gateway.api.admin.schemas import QueryFields
from gateway.api.bodies import json_response
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import AUDIT_SCOPES, AuditScope
from gateway.tenants.audit import CONSOLE, ENDPOINTS, Audit, AuditFilter, pool_owner
from gateway.tenants.names import TenantNames
from gateway.tenants.store import TenantStore


@dataclass(frozen=True, slots=True, repr=False)
class AuditSection:
    """Audit entries of tenants, configured upstreams, webhooks and the console, newest first."""

    audit: Audit
    tenants: TenantStore
    upstreams: Callable[[], Collection[str]]
    """Returns the names of the currently configured upstreams."""
    names: TenantNames

    def handlers(self) -> Handlers:
        return {"/audit": {"GET": self.list_entries}}

    async def list_entries(self, request: Request, actor: Actor) -> Response:
        query = QueryFields(request)
        owners = await self._owners(query.text("tenant"), query.text("upstream"))
        return await self.page(query, owners, actor.role and AUDIT_SCOPES.get(actor.role))

    async def page(self, query: QueryFields, owners: set[str], scope: AuditScope | None = None) -> Response:
        """Returns a page of entries of these owners. Raises: GatewayError."""
        limit = query.integer("limit", 1, 1000, 100)
        before = parse_before(query)
        wanted = replace(_parse_filter(query), scope=scope)
        query.reject_unknown()
        page = await self.audit.page(owners, limit, before, wanted)
        data = await self.names.show(page.entries)
        return json_response({"data": data, "next": str(page.next) if page.next else None})

    async def _owners(self, tenant: str | None, upstream: str | None) -> set[str]:
        """Raises: GatewayError NOT_FOUND, INVALID_VALUE, REDIS_UNAVAILABLE."""
        if tenant is not None and upstream is not None:
            raise refused_value("upstream", "'tenant' and 'upstream' cannot be used together.")
        if tenant is not None:
            return {(await self.tenants.get(tenant)).name}
        names = self.upstreams()
        if upstream is not None and upstream not in names:
            raise GatewayError(ErrorCode.NOT_FOUND, f"Upstream not found. Configured: {', '.join(names)}.")
        pools = {pool_owner(name) for name in names if upstream in (None, name)}
        return pools if upstream else pools | {ENDPOINTS, CONSOLE} | await self.tenants.names()


def _parse_filter(query: QueryFields) -> AuditFilter:
    """Parses actor, action and UTC days. Raises: GatewayError INVALID_VALUE."""
    first_ms, end = parse_utc_days(query)
    return AuditFilter(query.text("actor"), query.text("action"), first_ms, end)
