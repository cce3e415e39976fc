"""Audit events of the admin API and the configuration. Invariant: no event holds a secret or a hash."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.roles import ConsoleRole
from gateway.domain.tenants import LIMIT_NAMES, QUOTA_NAMES, ApiKey, Limits, Quotas, Tenant

JsonObject = Mapping[str, object]
"""A JSON object, as the admin API returns it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The name of the admin key or the person that makes a change, and the ID of its request."""

    name: str
    request_id: str = ""
    role: ConsoleRole | None = None
    """Of a person in the console."""


CONFIGURATION: Final = Actor("configuration")
"""The actor of changes from `[[tenants]]`. No admin key may have its name."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change. `before` is None if the object was created, `after` if it was deleted."""

    actor: Actor
    action: str
    tenant: str
    key_id: str = ""
    before: JsonObject | None = None
    after: JsonObject | None = None


def describe_tenant(tenant: Tenant) -> dict[str, object]:
    return {
        "name": tenant.current_name,
        "limits": describe_limits(tenant.limits),
        "quotas": describe_quotas(tenant.quotas),
        "models": None if tenant.models is None else sorted(tenant.models),
        "keep_hours": tenant.keep_hours,
        "storage_bytes": tenant.storage_bytes,
        "owner": tenant.owner,
        "contact": tenant.contact,
        "cost_centre": tenant.cost_centre,
        "tags": dict(tenant.tags),
        "required_tags": sorted(tenant.required_tags),
        "alerts": {
            "percent": None if tenant.alert_percents is None else list(tenant.alert_percents),
            "to": list(tenant.alert_to),
        },
        "weight": tenant.weight,
        "disabled": tenant.is_disabled,
        "disabled_by": tenant.disabled_by or None,
        "declared": tenant.is_declared,
        "created_at": tenant.created_at,
    }


def describe_key(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "label": key.label,
        "role": key.role,
        "tags": dict(key.tags),
        "limits": describe_limits(key.limits),
        "quotas": describe_quotas(key.quotas),
        "declared": key.is_declared,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    } | ({} if key.old_secret_until is None else {"old_secret_until": key.old_secret_until})


def show_key(key: ApiKey) -> dict[str, object]:
    """Describes a key as the API shows it, with its last use."""
    return describe_key(key) | {"last_used_at": key.last_used_at}


def describe_limits(limits: Limits) -> dict[str, object]:
    return {name: value for name in LIMIT_NAMES if (value := getattr(limits, name)) is not None}


def describe_quotas(quotas: Quotas) -> dict[str, object]:
    """Renders money as an exact decimal in dollars."""
    quotas_set = {name: value for name in QUOTA_NAMES if (value := getattr(quotas, name)) is not None}
    for name in ("usd_micros_per_month", "soft_usd_micros_per_month"):
        if (micros := quotas_set.pop(name, None)) is not None:
            quotas_set[name.replace("usd_micros", "usd")] = usd(micros)
    return quotas_set
