"""Tenants and API keys, with their models, limits and quotas.

An API key is `sk-ig-`, a public ID of 10 characters and a secret part of 32, in base 62. With 190 secret bits, a plain
hash of a key can be published.
"""

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

KEY_PREFIX: Final = "sk-ig-"
KEY_ALPHABET: Final = string.ascii_letters + string.digits
ID_CHARS: Final = 10
LEAD: Final = "lead"
"""Role of a key that manages its tenant's own keys and reads its usage."""
SECRET_CHARS: Final = 32
RESERVED: Final = "deleted-"
"""Beginning of the pseudonyms of tenants that were deleted for good; see metering/purge.py."""
_KEY: Final = re.compile(rf"{KEY_PREFIX}([A-Za-z0-9]{{{ID_CHARS}}})[A-Za-z0-9]{{{SECRET_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Rate and concurrency limits of a tenant or an API key; None is unlimited, 0 refuses everything."""

    requests_per_minute: int | None = None  # in any 60 seconds
    images_per_minute: int | None = None  # in any 60 seconds
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Quotas:
    """Quotas of a tenant or an API key per calendar day or month, in the configured time zone; None is unlimited.

    The soft one is a budget: it warns and refuses nothing.
    """

    images_per_day: int | None = None
    images_per_month: int | None = None
    usd_micros_per_month: int | None = None
    soft_usd_micros_per_month: int | None = None


LIMIT_NAMES: Final = tuple(limit.name for limit in fields(Limits))
QUOTA_NAMES: Final = tuple(quota.name for quota in fields(Quotas))
LIMIT_MAX: Final = 1_000_000_000
"""Maximum of every limit, and of every quota of images."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The status of one rate limit: the tighter of the tenant's and the API key's."""

    limit: int
    remaining: int
    reset_s: int  # seconds until the full limit is available


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """The status of one quota of the tenant or of the API key. Amounts are images or micro-dollars."""

    scope: str  # "tenant" or "key"
    name: str  # a field of Quotas
    limit: int
    used: int  # charged and reserved
    resets_at_s: int  # Unix seconds

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def percent(self) -> int:
        """The share that is used, rounded down; a quota of 0 is used up."""
        return self.used * 100 // self.limit if self.limit else 100


@dataclass(frozen=True, slots=True)
class Rates:
    """The status of rate limits and quotas for response headers; None if there is no such rate limit."""

    requests: Rate | None = None
    images: Rate | None = None
    quotas: tuple[QuotaStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant. `models` None means every model."""

    name: str
    """Its first name, which is its ID for good."""
    models: frozenset[str] | None = None
    is_disabled: bool = False
    created_at: int = 0  # Unix seconds
    limits: Limits = Limits()
    quotas: Quotas = Quotas()
    weight: int = 1  # share of scarce capacity, relative to other tenants
    is_declared: bool = False  # declared in the configuration, which is applied again at every start
    disabled_by: str = ""  # name of the admin key that disabled it, or "configuration"
    keep_hours: int | None = None  # for which its pictures are stored; None is the setting
    storage_bytes: int | None = None  # quota of stored bytes; None is the setting
    owner: str = ""
    contact: str = ""
    cost_centre: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)  # of every request of the tenant
    required_tags: frozenset[str] = frozenset()  # without one of these keys a request is refused
    alert_percents: tuple[int, ...] | None = None  # of a quota, ascending; None is the setting
    alert_to: tuple[str, ...] = ()  # "mailto:" addresses and https URLs
    renamed_to: str = ""  # "" if it has its first name

    @property
    def current_name(self) -> str:
        """The name for people: in responses, logs and metrics."""
        return self.renamed_to or self.name


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of an API key. It does not hold the key."""

    id: str
    tenant: str
    label: str
    created_at: int  # Unix seconds
    expires_at: int | None = None  # Unix seconds; None means never
    limits: Limits = Limits()  # apply in addition to the tenant's
    quotas: Quotas = Quotas()
    is_declared: bool = False
    old_secret_until: int | None = None
    """Unix seconds until which the secret before the last rotation is valid; None if it is not."""
    role: str = ""  # LEAD, or "" for a key that only makes images
    tags: Mapping[str, str] = field(default_factory=dict)  # in addition to the tenant's
    last_used_at: int | None = None
    """Unix seconds, exact to 5 minutes; None if it was not used in 400 days, or if it was not read."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated sender of a request: a tenant and one of its API keys."""

    tenant: Tenant
    key: ApiKey

    @property
    def has_rates(self) -> bool:
        """True if its responses carry `x-ratelimit-*` or `x-imagegate-quota-*`."""
        both = (self.tenant, self.key)
        rates = ((one.limits.requests_per_minute, one.limits.images_per_minute) for one in both)
        return any(one.quotas != Quotas() for one in both) or any(rate != (None, None) for rate in rates)


def key_id(secret: str) -> str | None:
    """Returns the public ID of a well-formed API key, else None."""
    match = _KEY.fullmatch(secret)
    return match[1] if match else None


def digest(secret: str) -> str:
    """Returns the SHA-256 of an API key in hexadecimal, as stored in a configuration."""
    return hashlib.sha256(secret.encode()).hexdigest()
