"""`/admin/v1/tenants`: tenants, with their models, limits and quotas."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import (
    AboutChange,
    KeepHours,
    LimitsChange,
    Name,
    QueryFields,
    QuotasChange,
    StorageBytes,
    Weight,
    merged,
    read_document,
    value_or,
)
from gateway.api.admin.tenant_list import TenantLister, TenantQuery
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.refusals import refused_value
from gateway.api.usage_amounts import describe_usage
from gateway.domain.audit import CONFIGURATION, Actor, describe_tenant
from gateway.domain.billing import usd
from gateway.domain.catalog import Catalog
from gateway.domain.tenants import Limits, Quotas, Tenant
from gateway.metering.admission import Admission
from gateway.storage.quota import StorageQuota
from gateway.tenants.store import TenantStore


class _NewTenant(AboutChange, kw_only=True):
    name: Name
    limits: LimitsChange | None = None
    quotas: QuotasChange | None = None
    models: list[str] | None = None
    keep_hours: KeepHours | None = None
    storage_bytes: StorageBytes | None = None
    weight: Weight = 1
    disabled: bool = False


class _TenantChange(AboutChange):
    """A JSON merge patch (RFC 7396): missing fields stay unchanged, null removes."""

    name: Name | UnsetType = UNSET
    limits: LimitsChange | UnsetType | None = UNSET
    quotas: QuotasChange | UnsetType | None = UNSET
    models: list[str] | UnsetType | None = UNSET
    keep_hours: KeepHours | UnsetType | None = UNSET
    storage_bytes: StorageBytes | UnsetType | None = UNSET
    weight: Weight | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


@dataclass(frozen=True, slots=True, repr=False)
class TenantSection:
    """Routes of tenants."""

    tenants: TenantStore
    admission: Admission
    catalog: Catalog
    limits: BodyLimits
    clock: Callable[[], float]
    erase: Callable[[str], Awaitable[None]] | None
    """Begins to delete what a tenant has stored, and ends its batches; None without storage."""
    storage: StorageQuota | None
    lister: TenantLister

    def handlers(self) -> Handlers:
        return {
            "/tenants": {"GET": self.list_tenants, "POST": self.create},
            "/tenants/{name}": {"GET": self.get, "PATCH": self.change, "DELETE": self.delete},
        }

    async def list_tenants(self, request: Request, _: Actor) -> Response:
        """Returns a page of tenants, with `used=true` each with its current usage."""
        query = QueryFields(request)
        wanted, used = TenantQuery.parse(query), query.text("used")
        if used not in (None, "true", "false"):
            raise refused_value("used", "expected 'true' or 'false'.")
        query.reject_unknown()
        page = await self.lister.page(wanted)
        described = [
            describe_tenant(one) | (await self._used(one.name) if used == "true" else {}) for one in page.tenants
        ]
        return json_response({"data": described, "total": page.total, "next": page.next})

    async def create(self, request: Request, actor: Actor) -> Response:
        new = await read_document(request, self.limits, _NewTenant)
        tenant = Tenant(
            new.name,
            self._checked_models(new.models),
            new.disabled,
            int(self.clock()),
            merged(Limits(), new.limits),
            merged(Quotas(), new.quotas),
            new.weight,
            disabled_by=actor.name if new.disabled else "",
            keep_hours=new.keep_hours,
            storage_bytes=new.storage_bytes,
        )
        return json_response(describe_tenant(await self.tenants.create(new.applied(tenant), actor)), 201)

    async def get(self, request: Request, _: Actor) -> Response:
        """Returns the tenant with its current usage, which includes the reservations of in-flight requests."""
        tenant = await self.tenants.get(request.path_params["name"])
        return json_response(await self._describe(tenant) | await self._used(tenant.name))

    async def _used(self, tenant_id: str) -> dict[str, object]:
        usage = await self.admission.usage(tenant_id)
        if usage is None:
            return {}
        used = describe_usage(usage)
        if self.storage:
            used["stored_bytes"] = await self.storage.stored_bytes(tenant_id, self.clock())
        credited = {
            "images_per_day": usage.credited_images_today,
            "images_per_month": usage.credited_images_this_month,
            "usd_per_month": usd(usage.credited_usd_micros_this_month),
        }
        return {"used": used, "credited": credited}

    async def change(self, request: Request, actor: Actor) -> Response:
        change = await read_document(request, self.limits, _TenantChange)
        models = UNSET if isinstance(change.models, UnsetType) else self._checked_models(change.models)
        tenant_id = request.path_params["name"]

        def changed(tenant: Tenant) -> Tenant:
            after = replace(
                change.applied(tenant),
                models=value_or(models, tenant.models),
                limits=merged(tenant.limits, change.limits),
                quotas=merged(tenant.quotas, change.quotas),
                weight=value_or(change.weight, tenant.weight),
                keep_hours=value_or(change.keep_hours, tenant.keep_hours),
                storage_bytes=value_or(change.storage_bytes, tenant.storage_bytes),
                renamed_to=value_or(change.name, tenant.renamed_to),
            )
            after = replace(after, renamed_to="" if after.renamed_to == after.name else after.renamed_to)
            return after if isinstance(change.disabled, UnsetType) else _with_disabled(after, change.disabled, actor)

        if not isinstance(change.name, UnsetType):
            changed(await self.tenants.get(tenant_id))  # a refused change must not reserve the name
            await self.tenants.claim(change.name, tenant_id)
        return json_response(describe_tenant(await self.tenants.update(tenant_id, changed, actor)))

    async def delete(self, request: Request, actor: Actor) -> Response:
        """Disables the tenant, cancels its batches and deletes its stored pictures and files. Its records stay."""
        name = request.path_params["name"]
        after = await self.tenants.update(name, lambda tenant: _with_disabled(tenant, True, actor), actor)
        if self.erase:
            await self.erase(name)
        return json_response(await self._describe(after))

    async def _describe(self, tenant: Tenant) -> dict[str, object]:
        body = describe_tenant(tenant)
        if self.storage:
            body["erasing_since"] = await self.storage.erasing_since(tenant.name)
        return body

    def _checked_models(self, models: list[str] | None) -> frozenset[str] | None:
        """Resolves aliases to model IDs. Raises: GatewayError INVALID_VALUE for an unknown model."""
        if models is None:
            return None
        ids = set()
        for name in models:
            model = self.catalog.find(name)
            if model is None:
                raise refused_value("models", f"model '{name[:64]}' is not configured.")
            ids.add(model.id)
        return frozenset(ids)


def _with_disabled(tenant: Tenant, is_disabled: bool, actor: Actor) -> Tenant:  # noqa: FBT001 - a schema field
    """Enables or disables a tenant. An administrator's decision takes precedence over the configuration's."""
    if is_disabled and tenant.is_disabled and tenant.disabled_by != CONFIGURATION.name:
        return tenant
    return replace(tenant, is_disabled=is_disabled, disabled_by=actor.name if is_disabled else "")
