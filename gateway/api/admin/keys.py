"""`/admin/v1/keys` and those of a tenant: API keys, with their limits and quotas."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import (
    LimitsChange,
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
from gateway.domain.audit import Actor, show_key
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas
from gateway.tenants.api_keys import ApiKeyStore, CreatedApiKey
from gateway.tenants.names import TenantNames

GRACE_S: Final = 86_400
GRACE_MAX_S: Final = 30 * 86_400
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

    def handlers(self) -> Handlers:
        return {
            "/tenants/{name}/keys": {"GET": self.list_keys, "POST": self.create},
            "/keys/{id}": {"GET": self.get, "PATCH": self.change, "DELETE": self.revoke},
            "/keys/{id}/rotate": {"POST": self.rotate},
        }

    async def list_keys(self, request: Request, _: Actor) -> Response:
        tenant_id = request.path_params["name"]
        keys, name = await self.keys.list_keys(tenant_id), await self.names.current(tenant_id)
        return json_response({"data": [show_key(key) | {"tenant": name} for key in keys]})

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
