"""Tenants: who may use the gateway, which models, and how much.

A tenant's API key is `sk-ig-`, a public ID of 10 characters and a secret part of 32, all of base 62. The 190 secret
bits allow a plain hash of a key to be published. The 48 characters fit a line of a terminal.
"""

import hashlib
import string
from dataclasses import dataclass, fields
from typing import Final

KEY_PREFIX: Final = "sk-ig-"
KEY_ALPHABET: Final = string.ascii_letters + string.digits
ID_CHARS: Final = 10
SECRET_CHARS: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast a tenant or a key may go; None is no limit, 0 lets nothing through."""

    requests_per_minute: int | None = None
    """In any 60 seconds."""
    images_per_minute: int | None = None
    """In any 60 seconds."""
    concurrency: int | None = None
    """Requests under way at once."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a tenant or a key may use in a calendar window (UTC); None is no quota."""

    images_per_day: int | None = None
    images_per_month: int | None = None
    usd_micros_per_month: int | None = None


LIMIT_NAMES: Final = tuple(field.name for field in fields(Limits))
QUOTA_NAMES: Final = tuple(field.name for field in fields(Quotas))
LIMIT_MAX: Final = 1_000_000_000
"""The largest that a limit or a quota of images may be."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate limit's status: the tighter of the tenant's and the key's."""

    limit: int
    remaining: int
    reset_s: int
    """Seconds until nothing of it is used."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The status of the rate limits, as `x-ratelimit-*` report it; None if there is no such limit."""

    requests: Rate | None = None
    images: Rate | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer inside the organisation. `models` None means every model."""

    name: str
    models: frozenset[str] | None = None
    is_disabled: bool = False
    created_at: int = 0
    """Unix seconds."""
    limits: Limits = Limits()
    quotas: Quotas = Quotas()
    weight: int = 1
    """Its share of scarce capacity, next to the others'."""
    is_declared: bool = False
    """It stands in the configuration, which is applied again at every start."""
    disabled_by: str = ""
    """Who disabled it: an admin key's name, or "configuration"."""

    def may_use(self, model_id: str) -> bool:
        return self.models is None or model_id in self.models


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a tenant's key; the key itself is not."""

    id: str
    tenant: str
    label: str
    created_at: int
    """Unix seconds."""
    expires_at: int | None = None
    """Unix seconds; None means never."""
    limits: Limits = Limits()
    """Besides the tenant's own."""
    quotas: Quotas = Quotas()
    is_declared: bool = False
    old_secret_until: int | None = None
    """Unix seconds until which the secret before the last rotation still opens; None when it does not."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request: a tenant, by one of its keys."""

    tenant: Tenant
    key: ApiKey

    @property
    def has_rates(self) -> bool:
        """Whether its answers carry `x-ratelimit-*`."""
        every = (self.tenant.limits, self.key.limits)
        return any(one.requests_per_minute is not None or one.images_per_minute is not None for one in every)


def key_id(secret: str) -> str | None:
    """The public ID of a well-formed key, else None."""
    body = secret.removeprefix(KEY_PREFIX)
    is_key = secret.startswith(KEY_PREFIX) and len(body) == ID_CHARS + SECRET_CHARS
    return body[:ID_CHARS] if is_key and body.isascii() and body.isalnum() else None


def digest(secret: str) -> str:
    """The SHA-256 of a key in hexadecimal, as a configuration holds it."""
    return hashlib.sha256(secret.encode()).hexdigest()
