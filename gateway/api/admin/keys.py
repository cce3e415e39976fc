"""`/admin/v1/tenants/{name}/keys` and `/admin/v1/keys/{id}`: tenants' API keys. A key is shown only once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import LimitsChange, QuotasChange, Schema, merged, read_document, value_or
from gateway.api.bodies import BodyLimits, json_response
from gateway.domain.audit import Actor, describe_key
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas
from gateway.tenants.api_keys import ApiKeyStore, CreatedApiKey

GRACE_S: Final = 86_400
GRACE_MAX_S: Final = 30 * 86_400
_Label = Annotated[str, Meta(max_length=100)]
_Moment = Annotated[int, Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, up to the year 9999."""


class _NewKey(Schema):
    label: _Label = ""
    expires_at: _Moment | None = None
    limits: LimitsChange | None = None
    quotas: QuotasChange | None = None


class _KeyChange(Schema):
    """A JSON merge patch (RFC 7396): missing fields stay unchanged, null removes."""

    label: _Label | UnsetType = UNSET
    expires_at: _Moment | UnsetType | None = UNSET
    limits: LimitsChange | UnsetType | None = UNSET
    quotas: QuotasChange | UnsetType | None = UNSET


class _Rotation(Schema):
    grace_s: Annotated[int, Meta(ge=0, le=GRACE_MAX_S)] = GRACE_S


class KeySection:
    """Routes of tenants' API keys."""

    def __init__(self, keys: ApiKeyStore, limits: BodyLimits, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._limits = limits
        self._clock = clock

    def handlers(self) -> Handlers:
        return {
            "/tenants/{name}/keys": {"GET": self.list_keys, "POST": self.create},
            "/keys/{id}": {"GET": self.get, "PATCH": self.change, "DELETE": self.revoke},
            "/keys/{id}/rotate": {"POST": self.rotate},
        }

    async def list_keys(self, request: Request, _: Actor) -> Response:
        keys = await self._keys.list_keys(request.path_params["name"])
        return json_response({"data": [describe_key(key) for key in keys]})

    async def create(self, request: Request, actor: Actor) -> Response:
        new = await read_document(request, self._limits, _NewKey)
        self._check_moment(new.expires_at)
        limits, quotas = merged(Limits(), new.limits), merged(Quotas(), new.quotas)
        name = request.path_params["name"]
        return _shown_once(await self._keys.create(name, actor, new.label, new.expires_at, limits, quotas))

    async def get(self, request: Request, _: Actor) -> Response:
        return json_response(describe_key(await self._keys.get(request.path_params["id"])))

    async def change(self, request: Request, actor: Actor) -> Response:
        change = await read_document(request, self._limits, _KeyChange)
        self._check_moment(change.expires_at)

        def changed(key: ApiKey) -> ApiKey:
            return replace(
                key,
                label=value_or(change.label, key.label),
                expires_at=value_or(change.expires_at, key.expires_at),
                limits=merged(key.limits, change.limits),
                quotas=merged(key.quotas, change.quotas),
            )

        return json_response(describe_key(await self._keys.update(request.path_params["id"], changed, actor)))

    async def rotate(self, request: Request, actor: Actor) -> Response:
        rotation = await read_document(request, self._limits, _Rotation)
        return _shown_once(await self._keys.rotate(request.path_params["id"], rotation.grace_s, actor))

    async def revoke(self, request: Request, actor: Actor) -> Response:
        key = await self._keys.revoke(request.path_params["id"], actor)
        return json_response(describe_key(key) | {"revoked": True})

    def _check_moment(self, moment: int | UnsetType | None) -> None:
        if isinstance(moment, int) and moment <= self._clock():
            message = "'expires_at' must be a future time in Unix seconds."
            raise GatewayError(ErrorCode.INVALID_VALUE, message, param="expires_at")


def _shown_once(made: CreatedApiKey) -> Response:
    return json_response({"id": made.key.id, "key": made.secret} | describe_key(made.key), 201)
