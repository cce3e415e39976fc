"""`/admin/v1/audit`: who changed what."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from gateway.domain.audit import Actor
from gateway.stores.audit import Audit, Cursor
from gateway.stores.tenants import TenantStore
from gateway.web.admin import Handler
from gateway.web.admin.documents import QueryFields
from gateway.web.bodies import json_response
from gateway.wire.fields import refused_value


class AuditSection:
    """The audit of every tenant, newest first."""

    def __init__(self, audit: Audit, tenants: TenantStore) -> None:
        self._audit = audit
        self._tenants = tenants

    def handlers(self) -> Mapping[str, Mapping[str, Handler]]:
        return {"/audit": {"GET": self.list_entries}}

    async def list_entries(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        tenant = query.text("tenant")
        limit = query.integer("limit", 1, 1000, 100)
        before = _cursor(query.text("before"))
        query.refuse_rest()
        names = await self._tenants.names() if tenant is None else {(await self._tenants.get(tenant)).name}
        page = await self._audit.page(names, limit, before)
        return json_response({"data": page.entries, "next": str(page.next) if page.next else None})


def _cursor(text: str | None) -> Cursor | None:
    cursor = Cursor.parse(text) if text else None
    if text and cursor is None:
        raise refused_value("before", "give the 'next' of an earlier answer.")
    return cursor
