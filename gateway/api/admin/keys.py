"""`/admin/v1/keys` and those of a tenant: API keys, with their limits and quotas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import (
    LimitsChange,
    QueryFields,
    QuotasChange,
    Schema,
    TagsChange,
    Text,
    merged,
    merged_tags,
    read_document,
    value_or,
)
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor, show_key
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas
from gateway.tenants.api_keys import ApiKeyStore, CreatedApiKey
from gateway.tenants.audit import Audit, AuditFilter
from gateway.tenants.key_list import KeyList, KeyPlace, KeyView
from gateway.tenants.merged_streams import Cursor
from gateway.tenants.names import TenantNames
from gateway.tenants.store import TenantStore

GRACE_S: Final = 86_400
GRACE_MAX_S: Final = 30 * 86_400
_REVOKED: Final = "revoked"
_VIEWS: Final = {view.value: view for view in KeyView}
_Role = Literal["", "lead"]
_Moment = Annotated[int, Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, up to the year 9999."""


class _NewKey(Schema):
    label: Text = ""
    role: _Role = ""
    tags: TagsChange | None = None
    expires_at: _Moment | None = None
    limits: LimitsChange | None = None
    quotas: QuotasChange | None = None


class _KeyChange(Schema):
    """A JSON merge patch (RFC 7396): missing fields stay unchanged, null removes."""

    label: Text | UnsetType = UNSET
    role: _Role | UnsetType = UNSET
    tags: TagsChange | UnsetType | None = UNSET
    expires_at: _Moment | UnsetType | None = UNSET
    limits: LimitsChange | UnsetType | None = UNSET
    quotas: QuotasChange | UnsetType | None = UNSET


class _Rotation(Schema):
    grace_s: Annotated[int, Meta(ge=0, le=GRACE_MAX_S)] = GRACE_S


CheckKey = Callable[[ApiKey | None, ApiKey], None]
"""Raises for a change that is not permitted, of a key from its state before, None for a new one."""


@dataclass(frozen=True, slots=True, repr=False)
class KeySection:
    """Routes of tenants' API keys. A key is shown only once."""

    keys: ApiKeyStore
    limits: BodyLimits
    clock: Callable[[], float]
    names: TenantNames
    listed: KeyList
    audit: Audit
    tenants: TenantStore

    def handlers(self) -> Handlers:
        return {
            "/tenants/{name}/keys": {"GET": self.list_keys, "POST": self.create},
            "/keys": {"GET": self.list_all},
            "/keys/{id}": {"GET": self.get, "PATCH": self.change, "DELETE": self.revoke},
            "/keys/{id}/rotate": {"POST": self.rotate},
        }

    async def list_keys(self, request: Request, _: Actor) -> Response:
        tenant_id = request.path_params["name"]
        keys, name = await self.keys.list_keys(tenant_id), await self.names.current(tenant_id)
        return json_response({"data": [show_key(key) | {"tenant": name} for key in keys]})

    async def list_all(self, request: Request, _: Actor) -> Response:
        """Returns a page of the keys of all tenants, or of one; of a view, or those that were revoked."""
        query = QueryFields(request)
        tenant, search, view = query.text("tenant"), query.text("q") or "", query.text("view")
        limit, after = query.integer("limit", 1, 1000, 100), query.text("after")
        query.reject_unknown()
        if view not in {None, _REVOKED, *_VIEWS}:
            raise refused_value("view", f"expected one of {', '.join((*_VIEWS, _REVOKED))}.")
        parse = Cursor.parse if view == _REVOKED else KeyPlace.parse
        place = parse(after) if after else None
        if after and place is None:
            raise refused_value("after", "expected the 'next' of an earlier response with the same 'view'.")
        if tenant:
            await self.tenants.get(tenant)
        if isinstance(place, Cursor) or view == _REVOKED:
            return await self._list_revoked(tenant, search, limit, place if isinstance(place, Cursor) else None)
        page = await self.listed.page(tenant, search, _VIEWS.get(view or ""), limit, place)
        return json_response(
            {"data": [show_key(key) for key in page.keys], "next": str(page.next) if page.next else None}
        )

    async def _list_revoked(self, tenant: str | None, search: str, limit: int, before: Cursor | None) -> Response:
        owners = {tenant} if tenant else await self.tenants.names()
        page = await self.audit.page(owners, limit, before, AuditFilter(action="key.revoke"))
        rows = [describe_revoked(entry) for entry in await self.names.show(page.entries)]
        wanted = search.casefold()
        data = [row for row in rows if any(wanted in str(row[name]).casefold() for name in ("label", "id", "tenant"))]
        return json_response({"data": data, "next": str(page.next) if page.next else None})

    async def create(self, request: Request, actor: Actor, check: CheckKey = lambda _, __: None) -> Response:
        new = await read_document(request, self.limits, _NewKey)
        self._check_moment(new.expires_at)
        key = ApiKey(
            "",
            request.path_params["name"],
            new.label,
            int(self.clock()),
            new.expires_at,
            merged(Limits(), new.limits),
            merged(Quotas(), new.quotas),
            role=new.role,
            tags=merged_tags({}, new.tags),
        )
        check(None, key)
        return await self._shown_once(await self.keys.create(key, actor))

    async def get(self, request: Request, _: Actor) -> Response:
        return json_response(await self._describe(await self.keys.get(request.path_params["id"])))

    async def change(self, request: Request, actor: Actor, check: CheckKey = lambda _, __: None) -> Response:
        change = await read_document(request, self.limits, _KeyChange)
        self._check_moment(change.expires_at)

        def changed(key: ApiKey) -> ApiKey:
            after = replace(
                key,
                label=value_or(change.label, key.label),
                role=value_or(change.role, key.role),
                tags=merged_tags(key.tags, change.tags),
                expires_at=value_or(change.expires_at, key.expires_at),
                limits=merged(key.limits, change.limits),
                quotas=merged(key.quotas, change.quotas),
            )
            check(key, after)
            return after

        return json_response(await self._describe(await self.keys.update(request.path_params["id"], changed, actor)))

    async def rotate(self, request: Request, actor: Actor) -> Response:
        rotation = await read_document(request, self.limits, _Rotation)
        return await self._shown_once(await self.keys.rotate(request.path_params["id"], rotation.grace_s, actor))

    async def revoke(self, request: Request, actor: Actor) -> Response:
        key = await self.keys.revoke(request.path_params["id"], actor)
        return json_response(await self._describe(key) | {"revoked": True})

    def _check_moment(self, moment: int | UnsetType | None) -> None:
        if isinstance(moment, int) and moment <= self.clock():
            message = "'expires_at' must be a future time in Unix seconds."
            raise GatewayError(ErrorCode.INVALID_VALUE, message, param="expires_at")

    async def _shown_once(self, made: CreatedApiKey) -> Response:
        return json_response({"id": made.key.id, "key": made.secret} | await self._describe(made.key), 201)

    async def _describe(self, key: ApiKey) -> dict[str, object]:
        return show_key(key) | {"tenant": await self.names.current(key.tenant)}


def describe_revoked(entry: Mapping[str, object]) -> dict[str, object]:
    """Describes a key as it was before the audit entry of its revocation."""
    before = entry["before"]
    key = msgspec.json.decode(bytes(before), type=dict[str, object]) if isinstance(before, msgspec.Raw) else {}
    shown = {"label": "", **key, "id": entry["key_id"], "tenant": entry["tenant"]}
    return shown | {"revoked_at": entry["at"], "revoked_by": entry["actor"]}
