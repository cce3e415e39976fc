"""`/admin/v1/refusals`: requests that were refused before anything was bought, newest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.periods import parse_before, parse_utc_days
from gateway.api.admin.schemas import QueryFields
from gateway.api.bodies import json_response
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode
from gateway.metering.refusals import NO_TENANT, RefusalList
from gateway.tenants.merged_streams import Entry, Selection
from gateway.tenants.names import TenantNames
from gateway.tenants.store import TenantStore

_FILTERS: Final = {"key": "key_id", "model": "model", "code": "code", "request_id": "request_id"}
"""Parameters, and the fields that have these values."""
_BY_NAME: Final = {error_code.value: error_code for error_code in ErrorCode}


@dataclass(frozen=True, slots=True, repr=False)
class RefusalSection:
    """Routes of refusals."""

    refusals: RefusalList
    tenants: TenantStore
    names: TenantNames

    def handlers(self) -> Handlers:
        return {"/refusals": {"GET": self.list_refusals}}

    async def list_refusals(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        tenant = query.text("tenant")
        return await self.page(query, (await self.tenants.get(tenant)).name if tenant else None)

    async def page(self, query: QueryFields, tenant: str | None, *, is_own: bool = False) -> Response:
        """Returns a page of a tenant's refusals, or of all; `is_own` omits the tenant. Raises: GatewayError."""
        limit, before = query.integer("limit", 1, 1000, 100), parse_before(query)
        first_ms, end = parse_utc_days(query)
        wanted = {field: value for name, field in _FILTERS.items() if (value := query.text(name))}
        query.reject_unknown()
        if wanted.get("code", "internal") not in _BY_NAME:
            raise refused_value("code", "this version has no such error code. docs/errors.md lists them.")

        def matches(fields: Mapping[str, str]) -> bool:
            return all(fields.get(name) == value for name, value in wanted.items())

        end = min((place for place in (before, end) if place), default=None)
        selection = Selection(first_ms, end, matches if wanted else None)
        found, following = await self.refusals.page(tenant, limit, selection)
        found.sort(key=_at_ms, reverse=True)  # a page has the order in which they were written, once a second
        rows = [_describe(entry, is_own=is_own) for entry in found]
        return json_response({"data": await self.names.show(rows), "next": following})


def _at_ms(entry: Entry) -> int:
    return int(entry[1].get("at_ms", entry[0].ms))


def _describe(entry: Entry, *, is_own: bool) -> dict[str, object]:
    """Describes a refusal, with the status and the message of its error code; None if this version has no such code."""
    place, fields = entry
    error_code = _BY_NAME.get(fields.get("code", ""))
    owner = {} if is_own else {"tenant": None if place.owner == NO_TENANT else place.owner}
    return {
        "at": _at_ms(entry) // 1000,
        "request_id": fields.get("request_id", ""),
        **owner,
        "key": fields.get("key_id"),
        "model": fields.get("model"),
        "code": fields.get("code", ""),
        "status": error_code.spec.status if error_code else None,
        "param": fields.get("param"),
        "message": error_code.spec.message if error_code else None,
    }
