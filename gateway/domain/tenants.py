"""A tenant: who may use the gateway, and which models."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer inside the organisation. `models` None means every model."""

    name: str
    models: frozenset[str] | None = None
    is_disabled: bool = False
    created_at: int = 0
    """Unix seconds."""

    def may_use(self, model_id: str) -> bool:
        return self.models is None or model_id in self.models


@dataclass(frozen=True, slots=True)
class TenantKey:
    """What is kept of a tenant's key; the key itself is not."""

    id: str
    tenant: str
    label: str
    created_at: int
    """Unix seconds."""
    expires_at: int | None = None
    """Unix seconds; None means never."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: a tenant, by one of its keys."""

    tenant: Tenant
    key_id: str
