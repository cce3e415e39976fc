"""The admin API: tenants, their keys, the pool. JSON; closed unless an admin key is configured."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.keys import Secret
from gateway.domain.models import Catalog
from gateway.domain.tenants import Tenant, TenantKey
from gateway.stores.keypool import KeyPool, KeyStatus
from gateway.stores.tenants import TenantStore
from gateway.web.bodies import BodyLimits, json_response, read_json_body
from gateway.wire.fields import MALFORMED, refused_value

PREFIX: Final = "/admin/v1"

_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
_Label = Annotated[str, Meta(max_length=100)]
_Moment = Annotated[int, Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, up to the year 9999."""
_Handler = Callable[[Request], Awaitable[Response]]
_Body = TypeVar("_Body", bound="_Document")


class _Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body: unknown fields are errors."""


class _NewTenant(_Document):
    name: _Name
    models: list[str] | None = None
    disabled: bool = False


class _TenantChange(_Document):
    models: list[str] | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class _NewKey(_Document):
    label: _Label = ""
    expires_at: _Moment | None = None


class Admin:
    """Routes for administrators."""

    def __init__(
        self,
        secret: Secret | None,
        tenants: TenantStore,
        pool: KeyPool,
        catalog: Catalog,
        limits: BodyLimits,
        clock: Callable[[], float],
    ) -> None:
        self._secret = secret
        self._tenants = tenants
        self._pool = pool
        self._catalog = catalog
        self._limits = limits
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            self._route("/tenants", GET=self.list_tenants, POST=self.create_tenant),
            self._route("/tenants/{name}", GET=self.get_tenant, PATCH=self.change_tenant, DELETE=self.disable_tenant),
            self._route("/tenants/{name}/keys", GET=self.list_keys, POST=self.create_key),
            self._route("/keys/{id}", DELETE=self.revoke_key),
            self._route("/pool", GET=self.list_pool),
        ]

    async def list_tenants(self, request: Request) -> Response:  # noqa: ARG002 - a route takes its request
        return json_response({"data": [_tenant(tenant) for tenant in await self._tenants.list_tenants()]})

    async def create_tenant(self, request: Request) -> Response:
        new = await self._read(request, _NewTenant)
        models = self._checked_models(new.models)
        tenant = Tenant(new.name, models, new.disabled, int(self._clock()))
        return json_response(_tenant(await self._tenants.create(tenant)), 201)

    async def get_tenant(self, request: Request) -> Response:
        return json_response(_tenant(await self._tenants.get(_name(request))))

    async def change_tenant(self, request: Request) -> Response:
        change = await self._read(request, _TenantChange)
        models = ... if isinstance(change.models, UnsetType) else self._checked_models(change.models)
        is_disabled = None if isinstance(change.disabled, UnsetType) else change.disabled
        return json_response(
            _tenant(await self._tenants.update(_name(request), models=models, is_disabled=is_disabled))
        )

    async def disable_tenant(self, request: Request) -> Response:
        return json_response(_tenant(await self._tenants.update(_name(request), is_disabled=True)))

    async def list_keys(self, request: Request) -> Response:
        return json_response({"data": [_key(key) for key in await self._tenants.list_keys(_name(request))]})

    async def create_key(self, request: Request) -> Response:
        new = await self._read(request, _NewKey)
        if new.expires_at is not None and new.expires_at <= self._clock():
            raise GatewayError(
                Fault.INVALID_VALUE, "'expires_at' must be a moment in the future, in Unix seconds.", param="expires_at"
            )
        made = await self._tenants.create_key(_name(request), new.label, new.expires_at)
        return json_response({"id": made.key.id, "key": made.secret} | _key(made.key), 201)

    async def revoke_key(self, request: Request) -> Response:
        key = await self._tenants.revoke(request.path_params["id"])
        return json_response(_key(key) | {"revoked": True})

    async def list_pool(self, request: Request) -> Response:  # noqa: ARG002
        return json_response({"data": [_status(status) for status in await self._pool.statuses()]})

    def _route(self, path: str, **handlers: _Handler) -> Route:
        """A route that nobody enters without the admin key; `handlers` by method."""

        async def guarded(request: Request) -> Response:
            self._check(request.headers.get("authorization", ""))
            method = "GET" if request.method == "HEAD" else request.method
            return await handlers[method](request)

        return Route(PREFIX + path, guarded, methods=list(handlers))

    def _check(self, authorization: str) -> None:
        if self._secret is None:
            raise GatewayError(Fault.ADMIN_CLOSED)
        scheme, _, given = authorization.partition(" ")
        expected = self._secret.reveal().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected):
            raise GatewayError(
                Fault.ADMIN_UNAUTHORIZED, "A valid admin key is required: 'Authorization: Bearer ADMIN_KEY'."
            )

    async def _read(self, request: Request, kind: type[_Body]) -> _Body:
        body = await read_json_body(request, self._limits)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            param = where.strip(".`") or None
            raise GatewayError(Fault.INVALID_VALUE, f"{param or 'The body'}: {what}.", param=param) from None
        except MALFORMED:
            raise GatewayError(Fault.INVALID_JSON) from None

    def _checked_models(self, models: list[str] | None) -> frozenset[str] | None:
        """Model ids as the configuration knows them; an alias stands for its model."""
        if models is None:
            return None
        found = {name: self._catalog.find(name) for name in models}
        unknown = [name for name, model in found.items() if model is None]
        if unknown:
            raise refused_value("models", f"there is no model '{unknown[0][:64]}' in the configuration.")
        return frozenset(model.id for model in found.values() if model)


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _tenant(tenant: Tenant) -> dict[str, object]:
    return {
        "name": tenant.name,
        "models": None if tenant.models is None else sorted(tenant.models),
        "disabled": tenant.is_disabled,
        "created_at": tenant.created_at,
    }


def _key(key: TenantKey) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "label": key.label,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def _status(status: KeyStatus) -> dict[str, object]:
    return {
        "upstream": status.key.upstream,
        "account": status.key.account,
        "key": status.key.name,
        "fingerprint": status.key.secret.fingerprint,
        "state": status.state.value,
        "fault": status.fault,
        "model": status.model,
        "since": status.since_s,
        "until": status.until_s,
    }
