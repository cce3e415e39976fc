"""Composes what administrators use: the admin API, tenants and their keys, and `[[tenants]]` of the configuration."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway import config
from gateway.api.admin import AdminApi, AdminRouter
from gateway.api.admin.audit import AuditSection
from gateway.api.admin.auth import AdminAuthenticator, AdminKey, Role
from gateway.api.admin.keys import KeySection
from gateway.api.admin.tenants import TenantSection
from gateway.api.authentication import FailedAuthThrottle
from gateway.api.bodies import BodyLimits
from gateway.config import Settings
from gateway.config.secret_strength import count_unguessable
from gateway.domain.accounts import Secret
from gateway.domain.billing import usd_micros
from gateway.domain.catalog import Catalog
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant, digest, key_id
from gateway.metering.admission import Admission
from gateway.redis import Client
from gateway.scheduler.encryption import SecretBox
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Authenticator
from gateway.tenants.provisioning import ProvisionedKey, ProvisionedTenant, TenantProvisioner
from gateway.tenants.store import TenantStore
from gateway.tenants.transactions import TenantTransactions

_DAY_S = 86_400
ADMIN_KEY_MIN_CHARS: Final = 16
"""Fewer can be guessed by one who tries long enough."""

PEPPER_MIN_CHARS: Final = 16
"""As many hexadecimal digits are 64 random bits, more than can be tried offline against a leaked hash."""
VAULT_KEY_MIN_CHARS: Final = 32
"""As many hexadecimal digits are 128 random bits."""
_DISTINCT_MIN: Final = 6
"""Of 16 random hexadecimal digits, fewer than 6 differ in one case of 25,000."""
_UNGUESSABLE_MIN: Final = 8
"""32 random bits or more, behind a limit on wrong keys; for those who choose a key instead of making one."""
_PLACEHOLDER: Final = "replace-with-"
"""How the values of deploy/kubernetes/secret.example.yaml begin."""


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the rest of the program needs of it."""

    credentials: Authenticator
    guesses: FailedAuthThrottle
    admin: AdminApi
    declaration: TenantProvisioner

    @property
    def background_tasks(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What runs beside the program."""
        return self.credentials.listen, self.declaration.run


def build_admin(
    settings: Settings,
    environ: Mapping[str, str],
    redis: Client,
    admission: Admission,
    upstreams: Callable[[], Collection[str]],
    catalog: Catalog,
    more: Iterable[AdminRouter] = (),
    clock: Callable[[], float] = time.time,
) -> AdminParts:
    """`upstreams` gives their names, `more` are further sections of the admin API. Raises: SettingsError."""
    pepper = read_pepper(settings, environ)
    credentials = Authenticator(
        redis, pepper=pepper, clock=clock, monotonic=time.monotonic, on_break=admission.mark_data_suspect
    )
    changes = TenantTransactions(redis, credentials.forget, settings.audit.retention_days * _DAY_S)
    tenants = TenantStore(redis, changes)
    keys = ApiKeyStore(redis, credentials, changes, clock)
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    sections: tuple[AdminRouter, ...] = (
        TenantSection(tenants, admission, catalog, limits, clock),
        KeySection(keys, limits, clock),
        AuditSection(Audit(redis), tenants, upstreams),
        *more,
    )
    guesses = FailedAuthThrottle(settings.server.auth_failures_per_minute, time.monotonic)
    access = AdminAuthenticator(read_admin_keys(settings, environ))
    admin = AdminApi(access, guesses, sections, settings.admin.requests_per_second, time.monotonic)
    declared = read_declared(settings, environ, catalog)
    declaration = TenantProvisioner(redis, credentials, changes, keys, clock, declared)
    return AdminParts(credentials, guesses, admin, declaration)


def read_admin_keys(settings: Settings, environ: Mapping[str, str]) -> list[AdminKey]:
    """None closes the admin API: no key is configured, or the only one's environment variable is not set.

    Raises: SettingsError.
    """
    first = _read_first(settings, environ)
    found = [AdminKey("admin", first)] if first else []
    for entry in settings.admin.keys:
        secret = _read_admin_key(entry.secret, environ, f"admin.keys '{entry.name}': secret")
        for other in found:
            if other.secret.reveal() == secret.reveal():
                raise config.SettingsError(
                    f"admin.keys '{entry.name}': it is the same key as '{other.name}'; give each its own"
                )
        found.append(AdminKey(entry.name, secret, Role(entry.role)))
    return found


def _read_first(settings: Settings, environ: Mapping[str, str]) -> Secret | None:
    source = settings.admin.key
    if source is None or (source.env is not None and source.file is None and not environ.get(source.env)):
        return None
    return _read_admin_key(source, environ, "admin.key")


def _read_admin_key(source: config.SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    secret = _read_strong(source, environ, where, "an admin key", ADMIN_KEY_MIN_CHARS)
    if count_unguessable(secret.reveal()) < _UNGUESSABLE_MIN:
        raise config.SettingsError(
            f"{where}: an admin key has at least {_UNGUESSABLE_MIN} characters besides common words, repetitions and "
            "sequences; `openssl rand -hex 16` makes one"
        )
    return secret


def _read_strong(
    source: config.SecretSource, environ: Mapping[str, str], where: str, what: str, min_chars: int
) -> Secret:
    """A secret that cannot be guessed. Raises: SettingsError."""
    secret = config.read_secret(source, environ, where)
    text, problem = secret.reveal(), ""
    if len(text) < min_chars:
        problem = f"{what} has at least {min_chars} characters"
    elif len(set(text)) < _DISTINCT_MIN:
        problem = f"{what} has at least {_DISTINCT_MIN} different characters"
    elif text.startswith(_PLACEHOLDER):
        problem = "it is the placeholder of an example"
    if problem:
        raise config.SettingsError(f"{where}: {problem}; `openssl rand -hex {max(16, min_chars)}` makes one")
    return secret


def read_pepper(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """The key of the tenants' keyed hashes; None lets Redis keep one. Raises: SettingsError."""
    source = settings.api_keys.hash_pepper
    return (
        _read_strong(source, environ, "api_keys.hash_pepper", "a pepper", PEPPER_MIN_CHARS).reveal() if source else None
    )


def read_vault(settings: Settings, environ: Mapping[str, str]) -> SecretBox | None:
    """What seals the secrets of upstream keys that are added at run time; None where none can be.

    Raises: SettingsError.
    """
    secrets: list[Secret] = []
    for number, source in enumerate(settings.pool.encryption_keys):
        where = f"pool.encryption_keys[{number}]"
        secrets.append(_read_strong(source, environ, where, "an encryption key", VAULT_KEY_MIN_CHARS))
    return SecretBox(secrets) if secrets else None


def read_declared(settings: Settings, environ: Mapping[str, str], catalog: Catalog) -> list[ProvisionedTenant]:
    """`[[tenants]]` with their keys; secrets are read now, and only their hashes are kept. Raises: SettingsError."""
    found = [
        ProvisionedTenant(
            Tenant(
                entry.name,
                _read_models(entry, catalog),
                entry.disabled,
                limits=_limits(entry.limits),
                quotas=_quotas(entry.quotas),
                weight=entry.weight,
                is_declared=True,
            ),
            tuple(_read_key(entry.name, number, key, environ) for number, key in enumerate(entry.keys)),
        )
        for entry in settings.tenants
    ]
    owners: dict[str, str] = {}
    for key in (key.key for tenant in found for key in tenant.keys):
        if key.id in owners:
            raise config.SettingsError(
                f"tenants '{key.tenant}': keys: the key {key.id} stands already under '{owners[key.id]}'; "
                "give each its own, as `imagegate key hash` makes it"
            )
        owners[key.id] = key.tenant
    return found


def _read_models(entry: config.ConfiguredTenant, catalog: Catalog) -> frozenset[str] | None:
    if entry.models is None:
        return None
    models = {name: catalog.find(name) for name in entry.models}
    for name, model in models.items():
        if model is None:
            known = ", ".join(known for known, _ in catalog.names())
            raise config.SettingsError(f"tenants '{entry.name}': models: there is no model '{name}'; known are {known}")
    return frozenset(model.id for model in models.values() if model)


def _read_key(tenant: str, number: int, key: config.ConfiguredKey, environ: Mapping[str, str]) -> ProvisionedKey:
    where = f"tenants '{tenant}': keys[{number}]"
    if (key.hash is None) == (key.secret is None):
        raise config.SettingsError(
            f"{where}: give either hash, as `imagegate key hash` prints it, or secret = "
            '{ env = "VARIABLE" } or { file = "/path" }'
        )
    public_id, _, hashed = (key.hash or "").partition(".")
    if key.secret is not None:
        secret = config.read_secret(key.secret, environ, f"{where}: secret").reveal()
        public_id, hashed = key_id(secret) or "", digest(secret)
    if not public_id:
        raise config.SettingsError(
            f"{where}: secret: it is no key of this gateway (sk-ig- and 42 letters and digits); "
            "`imagegate key hash` makes one"
        )
    expires_at = int(key.expires_at.timestamp()) if key.expires_at else None
    limits, quotas = _limits(key.limits), _quotas(key.quotas)
    return ProvisionedKey(ApiKey(public_id, tenant, key.label, 0, expires_at, limits, quotas, True), hashed)


def _limits(given: config.Limits) -> Limits:
    return Limits(given.requests_per_minute, given.images_per_minute, given.concurrency)


def _quotas(given: config.Quotas) -> Quotas:
    micros = None if given.usd_per_month is None else usd_micros(given.usd_per_month)
    return Quotas(given.images_per_day, given.images_per_month, micros)
