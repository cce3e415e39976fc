"""Resolves settings into the values that the program is built from; every secret is read here.

The server, `imagegate check` and reloads call `resolve`, so a configuration that one accepts is valid for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx
from msgspec.structs import asdict

from gateway import config
from gateway.api.admin import AdminKey, Role
from gateway.config.schema import Settings
from gateway.config.secrets import read_admin_key, read_secret, read_strong_secret
from gateway.config.types import SettingsError
from gateway.domain.accounts import Account, AccountLimits, Pool, PoolConfig, ProviderKey, WaitConfig
from gateway.domain.billing import BillingRule, usd_micros
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.images import Capability
from gateway.domain.pricing import PerImage, Price
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant, digest, key_id
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.redis import Credentials
from gateway.scheduler.encryption import SecretBox
from gateway.tenants.provisioning import ProvisionedKey, ProvisionedTenant

_PEPPER_MIN_CHARS: Final = 16
"""As many hexadecimal digits are 64 random bits, more than can be tried offline against a leaked hash."""
_ENCRYPTION_KEY_MIN_CHARS: Final = 32
"""As many hexadecimal digits are 128 random bits."""


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration: its settings, its secrets, and the domain values made of both."""

    settings: Settings
    catalog: Catalog
    upstreams: UpstreamSet
    tenants: tuple[ProvisionedTenant, ...]
    admin_keys: tuple[AdminKey, ...]
    """Without any the admin API is closed."""
    pepper: str | None
    """The key of the API keys' hashes; None: one that Redis holds."""
    secret_box: SecretBox | None
    """Encrypts provider keys that are added at run time; None: they cannot be added."""
    redis_credentials: Credentials
    billing: BillingRule
    journal_dir: Path | None
    journal_problem: str
    """Why there is no journal although it is not switched off."""


def resolve(settings: Settings, environ: Mapping[str, str]) -> Config:
    """Reads all secrets from `environ` and files, and builds all domain values.

    Raises: SettingsError naming the setting and the fix.
    """
    catalog = _catalog(settings)
    journal_dir, journal_problem = _journal(settings, environ)
    return Config(
        settings,
        catalog,
        _upstreams(settings, environ),
        _tenants(settings, environ, catalog),
        _admin_keys(settings, environ),
        _pepper(settings, environ),
        _secret_box(settings, environ),
        _redis_credentials(settings, environ),
        BillingRule(settings.billing.charge_moderated, settings.billing.charge_unknown_outcomes),
        journal_dir,
        journal_problem,
    )


def _catalog(settings: Settings) -> Catalog:
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    return Catalog(
        Model(
            model.id,
            model.aliases,
            _prices(model),
            tuple(
                Target(target.upstream, target.model, _capability(upstreams[target.upstream], target.model))
                for target in model.targets
            ),
        )
        for model in settings.models
    )


def _prices(model: config.Model) -> tuple[Price, ...]:
    """The configuration has prices per image only: other prices cannot be settled yet."""
    changes = ((int(change.since.timestamp()), change.price_per_image_usd) for change in model.price_changes)
    dated = ((0, model.price_per_image_usd), *changes)
    return tuple(Price(since_s, PerImage(usd_micros(price))) for since_s, price in dated)


def _capability(upstream: config.Upstream, model: str) -> Capability:
    """The provider's capability, overridden by the declared one.

    No call is larger than every account's images per minute: it would never be sent.
    """
    declared = {name: value for name, value in asdict(upstream.capabilities).items() if value is not None}
    capability = PROVIDERS[upstream.provider].capability(model, declared)
    smallest = min(account.images_per_minute for account in upstream.accounts)
    return replace(capability, max_images_per_call=min(capability.max_images_per_call, smallest))


def _upstreams(settings: Settings, environ: Mapping[str, str]) -> UpstreamSet:
    return UpstreamSet(
        {upstream.name: _endpoint(upstream) for upstream in settings.upstreams},
        tuple(_pool(upstream, environ) for upstream in settings.upstreams),
        {upstream.name: WaitConfig(upstream.max_wait_s, upstream.fallback_after_s) for upstream in settings.upstreams},
    )


def _endpoint(upstream: config.Upstream) -> UpstreamEndpoint:
    provider = PROVIDERS[upstream.provider]
    hosts = provider.result_hosts if upstream.result_hosts is None else upstream.result_hosts
    base_url = upstream.base_url.rstrip("/")
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise SettingsError(
            f"upstreams '{upstream.name}': base_url: '{upstream.base_url}' is no address ({error})"
        ) from error
    return UpstreamEndpoint(upstream.name, provider, base_url, LinkPolicy(hosts))


def _pool(upstream: config.Upstream, environ: Mapping[str, str]) -> Pool:
    terms = PoolConfig(
        upstream.rate_window_margin_s,
        upstream.max_queue_length,
        upstream.breaker_failures,
        upstream.breaker_open_s,
        upstream.retry_budget_percent,
        upstream.paced_percent,
    )
    return Pool(upstream.name, tuple(_account(upstream, account, environ) for account in upstream.accounts), terms)


def _account(upstream: config.Upstream, account: config.Account, environ: Mapping[str, str]) -> Account:
    limits = AccountLimits(
        account.requests_per_minute, account.images_per_minute, account.max_concurrency, account.weight
    )
    keys = []
    for key in account.keys:
        secret = read_secret(key.secret, environ, f"upstreams '{upstream.name}': key '{key.name}': secret")
        keys.append(ProviderKey(upstream.name, account.name, key.name, secret))
    return Account(upstream.name, account.name, limits, tuple(keys))


def _tenants(settings: Settings, environ: Mapping[str, str], catalog: Catalog) -> tuple[ProvisionedTenant, ...]:
    """`[[tenants]]` with their keys, of which only the hashes are stored."""
    found = tuple(_tenant(entry, environ, catalog) for entry in settings.tenants)
    owners: dict[str, str] = {}
    for key in (key.key for tenant in found for key in tenant.keys):
        if key.id in owners:
            raise SettingsError(
                f"tenants '{key.tenant}': keys: key {key.id} is already used by tenant '{owners[key.id]}'. "
                "Each key may be used only once; `imagegate key hash` makes one"
            )
        owners[key.id] = key.tenant
    return found


def _tenant(entry: config.ConfiguredTenant, environ: Mapping[str, str], catalog: Catalog) -> ProvisionedTenant:
    tenant = Tenant(
        entry.name,
        _tenant_models(entry, catalog),
        entry.disabled,
        limits=_limits(entry.limits),
        quotas=_quotas(entry.quotas),
        weight=entry.weight,
        is_declared=True,
    )
    keys = (
        _api_key(entry.name, key, environ, f"tenants '{entry.name}': keys[{number}]")
        for number, key in enumerate(entry.keys)
    )
    return ProvisionedTenant(tenant, tuple(keys))


def _tenant_models(entry: config.ConfiguredTenant, catalog: Catalog) -> frozenset[str] | None:
    if entry.models is None:
        return None
    models = {name: catalog.find(name) for name in entry.models}
    for name, model in models.items():
        if model is None:
            known = ", ".join(known for known, _ in catalog.names())
            raise SettingsError(f"tenants '{entry.name}': models: there is no model '{name}'; known are {known}")
    return frozenset(model.id for model in models.values() if model)


def _api_key(tenant: str, key: config.ConfiguredKey, environ: Mapping[str, str], where: str) -> ProvisionedKey:
    if (key.hash is None) == (key.secret is None):
        raise SettingsError(
            f"{where}: give either hash, as `imagegate key hash` prints it, or secret = "
            '{ env = "VARIABLE" } or { file = "/path" }'
        )
    public_id, _, hashed = (key.hash or "").partition(".")
    if key.secret is not None:
        secret = read_secret(key.secret, environ, f"{where}: secret").reveal()
        public_id, hashed = key_id(secret) or "", digest(secret)
    if not public_id:
        raise SettingsError(
            f"{where}: secret: not an API key of this gateway (sk-ig- and 42 letters and digits); "
            "`imagegate key hash` makes one"
        )
    expires_at = int(key.expires_at.timestamp()) if key.expires_at else None
    limits, quotas = _limits(key.limits), _quotas(key.quotas)
    return ProvisionedKey(ApiKey(public_id, tenant, key.label, 0, expires_at, limits, quotas, True), hashed)


def _limits(configured: config.Limits) -> Limits:
    return Limits(configured.requests_per_minute, configured.images_per_minute, configured.concurrency)


def _quotas(configured: config.Quotas) -> Quotas:
    micros = None if configured.usd_per_month is None else usd_micros(configured.usd_per_month)
    return Quotas(configured.images_per_day, configured.images_per_month, micros)


def _admin_keys(settings: Settings, environ: Mapping[str, str]) -> tuple[AdminKey, ...]:
    """`admin.key` may name an environment variable that is not set: the shipped configuration does."""
    found: list[AdminKey] = []
    first = settings.admin.key
    if first and (first.env is None or first.file is not None or environ.get(first.env)):
        found.append(AdminKey("admin", read_admin_key(first, environ, "admin.key")))
    for entry in settings.admin.keys:
        secret = read_admin_key(entry.secret, environ, f"admin.keys '{entry.name}': secret")
        for other in found:
            if other.secret.reveal() == secret.reveal():
                raise SettingsError(f"admin.keys '{entry.name}': the same key as '{other.name}'; use a new key")
        found.append(AdminKey(entry.name, secret, Role(entry.role)))
    return tuple(found)


def _pepper(settings: Settings, environ: Mapping[str, str]) -> str | None:
    source = settings.api_keys.hash_pepper
    if source is None:
        return None
    return read_strong_secret(source, environ, "api_keys.hash_pepper", "a pepper", _PEPPER_MIN_CHARS).reveal()


def _secret_box(settings: Settings, environ: Mapping[str, str]) -> SecretBox | None:
    secrets = [
        read_strong_secret(
            source, environ, f"pool.encryption_keys[{number}]", "an encryption key", _ENCRYPTION_KEY_MIN_CHARS
        )
        for number, source in enumerate(settings.pool.encryption_keys)
    ]
    return SecretBox(secrets) if secrets else None


def _redis_credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    redis = settings.redis
    return Credentials(
        redis.username,
        read_secret(redis.password, environ, "redis.password") if redis.password else None,
        read_secret(redis.sentinel_password, environ, "redis.sentinel_password") if redis.sentinel_password else None,
    )


def _journal(settings: Settings, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    """Returns: the directory of this user's journals, None for no journal, and the problem if none was found."""
    directory = settings.requests.journal_dir
    if directory is not None:
        return (Path(directory).expanduser().absolute() if directory else None), ""
    state, home = (Path(environ.get(name, "")) for name in ("XDG_STATE_HOME", "HOME"))
    if state.is_absolute():
        return state / "imagegate" / "journal", ""
    if home.is_absolute():
        return home / ".local" / "state" / "imagegate" / "journal", ""
    return None, 'requests.journal_dir: there is no HOME to put it in; set it, "" for none'
