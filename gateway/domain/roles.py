"""Roles of people who sign in to the console, and what each may do.

One table decides for the admin API, for the console's own routes and for what the console shows. A key of the admin API
with role `read` may do what a viewer may.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class ConsoleRole(Enum):
    """Role of a person. A lead and a member belong to a tenant; the others see all tenants."""

    ADMIN = "admin"
    FINANCE = "finance"
    VIEWER = "viewer"
    LEAD = "lead"
    MEMBER = "member"

    @property
    def has_tenant(self) -> bool:
        return self in {ConsoleRole.LEAD, ConsoleRole.MEMBER}


_ADMIN_ROUTES: Final = (
    ("/overview", "overview.read", ""),
    ("/tenants/{name}/keys", "keys.read", "keys.write"),
    ("/tenants/{name}/batches", "records.read", "tenants.write"),
    ("/tenants/{name}/members", "settings.read", "settings.write"),
    ("/tenants", "tenants.read", "tenants.write"),
    ("/keys", "keys.read", "keys.write"),
    ("/usage/records", "records.read", ""),
    ("/usage/closings", "usage.read", "months.close"),
    ("/usage", "usage.read", ""),
    ("/refusals", "records.read", ""),
    ("/models", "models.read", ""),
    ("/audit", "audit.read", ""),
    ("/pool", "pool.read", "pool.write"),
    ("/webhooks", "settings.read", "settings.write"),
    ("/configuration", "configuration.read", ""),
    ("/console", "settings.read", "settings.write"),
)
"""Beginning of a path below `/admin/v1`, the permission to read it and the one to change it. The first match counts."""
_PLAYGROUND: Final = "playground"
_ALL: Final = frozenset(filter(None, (name for _, *names in _ADMIN_ROUTES for name in names)))
PERMISSIONS: Final[Mapping[ConsoleRole, frozenset[str]]] = {
    ConsoleRole.ADMIN: _ALL | {_PLAYGROUND},
    ConsoleRole.FINANCE: frozenset(
        {"overview.read", "usage.read", "records.read", "models.read", "tenants.read", "audit.read", "months.close"}
    ),
    ConsoleRole.VIEWER: frozenset(name for name in _ALL if name.endswith(".read")) - {"configuration.read"},
    ConsoleRole.LEAD: frozenset(
        {"tenant.read", "tenant.write", "keys.read", "keys.write", "audit.read", "usage.read", "records.read"}
        | {"members.read", "members.write", _PLAYGROUND}
    ),
    ConsoleRole.MEMBER: frozenset({"usage.read", "records.read", _PLAYGROUND}),
}
"""What each role may do: a lead and a member only for their own tenant, by the console's own routes."""


@dataclass(frozen=True, slots=True)
class AuditScope:
    """The entries of the audit log that a role sees."""

    actions: frozenset[str]
    fields: frozenset[str]
    """Also entries that change one of these fields of a tenant or key, or of its quotas."""

    def shows(self, action: str, before: Mapping[str, object], after: Mapping[str, object]) -> bool:
        return action in self.actions or any(_field(before, name) != _field(after, name) for name in self.fields)


def _field(described: Mapping[str, object], name: str) -> object:
    """Returns a field of a tenant or key or of its quotas; None if it is not set."""
    quotas = described.get("quotas")
    return described.get(name) or (quotas.get(name) if isinstance(quotas, dict) else None)


AUDIT_SCOPES: Final[Mapping[ConsoleRole, AuditScope]] = {
    ConsoleRole.FINANCE: AuditScope(
        frozenset({"usage.close", "tenant.credit"}),
        frozenset({"usd_per_month", "soft_usd_per_month", "cost_centre"}),
    )
}
"""A role that is absent sees all entries that it may read."""
_TENANT_ROUTES: Final = (
    ("/usage", "usage.read", ""),
    ("/requests", "records.read", ""),
    ("/refusals", "records.read", ""),
    ("/audit", "audit.read", ""),
    ("/keys", "keys.read", "keys.write"),
    ("/members", "members.read", "members.write"),
    ("", "tenant.read", "tenant.write"),
)
"""As `_ADMIN_ROUTES`, below `/console/tenant`."""


def admin_permission(path: str, method: str) -> str:
    """Returns what a route below `/admin/v1` needs. Raises: LookupError for a route that the table lacks."""
    return _permission(_ADMIN_ROUTES, path, method)


def tenant_permission(path: str, method: str) -> str:
    """Returns what a route below `/console/tenant` needs. Raises: LookupError."""
    return _permission(_TENANT_ROUTES, path, method)


def _permission(table: tuple[tuple[str, str, str], ...], path: str, method: str) -> str:
    for beginning, to_read, to_change in table:
        if path == beginning or path.startswith(f"{beginning}/") or (beginning == "/usage" and path == "/usage_now"):
            if needed := to_read if method in {"GET", "HEAD"} else to_change:
                return needed
            break
    raise LookupError(f"no permission is named for {method} {path}")
