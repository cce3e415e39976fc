"""Redis keys and record fields of tenants and API keys."""

from dataclasses import asdict
from typing import TypedDict

import msgspec

from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant
from gateway.redis import Client


def names_record(prefix: str) -> str:
    """Returns the set of the IDs of all tenants."""
    return f"{prefix}:tenants"


def record(redis: Client, tenant: str, kind: str) -> str:
    """Returns a Redis key of a tenant: its `tenant`, `keys`, `revoked_keys` (by an operator) or `audit`."""
    return f"{redis.prefix}:{{{tenant}}}:{kind}"


def lookup_record(redis: Client, key_id: str) -> str:
    """Returns the lookup of a key ID's tenant. It grants no access without the tenant's own record of the key."""
    return f"{redis.prefix}:key:{key_id}"


def use_record(redis: Client, tenant: str, key_id: str) -> str:
    """Returns the string with the Unix second at which a key was last recorded as used."""
    return record(redis, tenant, f"key:{key_id}:used_at")


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A value of the hash `ig3:{NAME}:keys`: a key's record, as JSON."""

    keyed_hash: str
    """The keyed hash of the secret."""
    old_mac: str = ""
    """Keyed hash of the previous secret, valid until `old_until`, Unix seconds."""
    old_until: int = 0
    label: str = ""
    created_at: int
    expires_at: int | None = None
    declared: bool = False
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    role: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    def key(self, key_id: str, tenant: str) -> ApiKey:
        return ApiKey(
            key_id,
            tenant,
            self.label,
            self.created_at,
            self.expires_at,
            msgspec.convert(self.limits, Limits),
            msgspec.convert(self.limits, Quotas),
            self.declared,
            self.old_until if self.old_mac else None,
            self.role,
            self.tags,
        )


def read_key(text: str) -> KeyRecord:
    return msgspec.json.decode(text, type=KeyRecord)


def write_key(key: ApiKey, keyed_hash: str, old_mac: str = "", old_until: int = 0) -> str:
    return _json(
        KeyRecord(
            keyed_hash=keyed_hash,
            old_mac=old_mac,
            old_until=old_until,
            label=key.label,
            created_at=key.created_at,
            expires_at=key.expires_at,
            declared=key.is_declared,
            limits=_flat(key.limits, key.quotas),
            role=key.role,
            tags=dict(key.tags),
        )
    )


class _About(TypedDict, total=False):
    """The field `about` of a tenant's record, as JSON."""

    owner: str
    contact: str
    cost_centre: str
    tags: dict[str, str]
    required_tags: frozenset[str]
    alert_percents: tuple[int, ...] | None
    alert_to: tuple[str, ...]


def read_tenant(name: str, fields: dict[str, str]) -> Tenant:
    limits = fields.get("limits") or "{}"
    return Tenant(
        name,
        frozenset(msgspec.json.decode(fields["models"], type=list[str])) if fields.get("models") else None,
        fields.get("disabled") == "1",
        int(fields.get("created_at", 0)),
        msgspec.json.decode(limits, type=Limits),
        msgspec.json.decode(limits, type=Quotas),
        int(fields.get("weight", 1)),
        fields.get("declared") == "1",
        fields.get("disabled_by", ""),
        **msgspec.json.decode(fields.get("storage") or "{}", type=dict[str, int]),
        **msgspec.json.decode(fields.get("about") or "{}", type=_About),
        renamed_to=fields.get("renamed_to", ""),
    )


def write_tenant(tenant: Tenant) -> dict[str, str]:
    """Renders the fields of a tenant's record."""
    return {
        "models": "" if tenant.models is None else _json(sorted(tenant.models)),
        "disabled": str(int(tenant.is_disabled)),
        "disabled_by": tenant.disabled_by,
        "created_at": str(tenant.created_at),
        "weight": str(tenant.weight),
        "declared": str(int(tenant.is_declared)),
        "limits": _json(_flat(tenant.limits, tenant.quotas)),
        "storage": _json(_without_none({"keep_hours": tenant.keep_hours, "storage_bytes": tenant.storage_bytes})),
        "renamed_to": tenant.renamed_to,
        "about": _json({name: value for name in _About.__annotations__ if (value := getattr(tenant, name))}),
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _flat(limits: Limits, quotas: Quotas) -> dict[str, int]:
    """Merges limits and quotas into one object, as admit.lua reads it; an absent field is no limit."""
    return _without_none(asdict(limits) | asdict(quotas))


def _without_none(values: dict[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}
