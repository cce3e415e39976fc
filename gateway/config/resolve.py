"""Resolves settings into the values that the program is built from; every secret is read here.

The server, `imagegate check` and reloads call `resolve`, so a configuration that one accepts is valid for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import httpx
from msgspec import convert
from msgspec.structs import asdict

from gateway.api.admin import AdminKey, Role
from gateway.config import upstreams as tables
from gateway.config.alerts import AlertConfig, resolve_alerts
from gateway.config.schema import Settings, Storage
from gateway.config.secrets import read_admin_key, read_secret, read_strong_secret
from gateway.config.upstreams import SecretSource, SettingsError, Table
from gateway.domain.accounts import Account, AccountLimits, Pool, PoolConfig, ProviderKey, Secret, WaitConfig
from gateway.domain.billing import BillingRule, PerImage, Price, usd_micros
from gateway.domain.catalog import Capability, Catalog, Model, Target
from gateway.domain.images import LinkSource
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant, digest, key_id
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.redis import Credentials
from gateway.scheduler.encryption import SecretBox
from gateway.storage.location import StorageKind, StorageLocation, parse_location
from gateway.tenants.provisioning import ProvisionedKey, ProvisionedTenant

_PEPPER_MIN_CHARS: Final = 16
"""As many hexadecimal digits are 64 random bits, more than can be tried offline against a leaked hash."""
_KEY_MIN_CHARS: Final = 32
"""As many hexadecimal digits are 128 random bits. Also of a key that signs links."""
_STORAGE_SETTINGS: Final = {
    StorageKind.DIRECTORY: (),
    StorageKind.S3: ("endpoint", "region", "access_key_id", "secret_access_key"),
    StorageKind.GOOGLE: (),
    StorageKind.AZURE: ("endpoint", "access_key_id", "secret_access_key"),
}
"""What a location may have besides its URL. Google's credentials come from its usual environment."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration: its settings, its secrets, and the domain values made of both."""

    settings: Settings
    catalog: Catalog
    upstreams: UpstreamSet
    tenants: tuple[ProvisionedTenant, ...]
    admin_keys: tuple[AdminKey, ...]  # without any, the admin API is closed
    pepper: str | None  # the key of the API keys' hashes; None: one that Redis holds
    secret_box: SecretBox | None  # encrypts provider keys that are added at run time; None: they cannot be added
    redis_credentials: Credentials
    billing: BillingRule
    journal_dir: Path | None
    journal_problem: str  # why there is no journal although it is not switched off
    storage: StorageLocation | None = None
    signing_keys: tuple[str, ...] = ()  # of links, the current one first; empty: those that Redis holds
    alerts: AlertConfig = field(default_factory=AlertConfig)


def resolve(settings: Settings, environ: Mapping[str, str]) -> Config:
    """Reads all secrets from `environ` and files, and builds all domain values.

    Raises: SettingsError naming the setting and the fix.
    """
    catalog, redis, pepper = _catalog(settings), settings.redis, settings.api_keys.hash_pepper
    encryption_keys = _keys(settings.pool.encryption_keys, environ, "pool.encryption_keys", "an encryption key")
    signing_keys = _keys(settings.storage.signing_keys, environ, "storage.signing_keys", "a signing key")
    passwords = (
        read_secret(source, environ, f"redis.{name}") if source else None
        for name, source in (("password", redis.password), ("sentinel_password", redis.sentinel_password))
    )
    return Config(
        settings,
        catalog,
        _upstreams(settings, environ),
        _tenants(settings, environ, catalog),
        _admin_keys(settings, environ),
        read_strong_secret(pepper, environ, "api_keys.hash_pepper", "a pepper", _PEPPER_MIN_CHARS).plaintext
        if pepper
        else None,
        SecretBox(encryption_keys) if encryption_keys else None,
        Credentials(redis.username, *passwords),
        BillingRule(settings.billing.charge_moderated, settings.billing.charge_unknown_outcomes),
        *_journal(settings, environ),
        _storage(settings.storage, environ),
        tuple(key.plaintext for key in signing_keys),
        resolve_alerts(settings.alerts, environ),
    )


def _keys(sources: Sequence[SecretSource], environ: Mapping[str, str], where: str, what: str) -> list[Secret]:
    return [
        read_strong_secret(source, environ, f"{where}[{number}]", what, _KEY_MIN_CHARS)
        for number, source in enumerate(sources)
    ]


def _storage(storage: Storage, environ: Mapping[str, str]) -> StorageLocation | None:
    if storage.url is None:
        return None
    try:
        location = parse_location(storage.url)
    except ValueError as error:
        raise SettingsError(f"storage.url: {error}") from error
    if (storage.access_key_id is None) != (storage.secret_access_key is None):
        raise SettingsError("storage: give access_key_id and secret_access_key, or neither to use the environment's")
    if storage.redirect and location.kind is StorageKind.DIRECTORY:
        raise SettingsError(
            "storage.redirect: a directory has no links of its own; use a bucket, or remove this setting"
        )
    taken = _STORAGE_SETTINGS[location.kind]
    for name in _STORAGE_SETTINGS[StorageKind.S3]:
        if getattr(storage, name) is not None and name not in taken:
            raise SettingsError(f"storage.{name}: {location.kind.value}:// has no such setting; remove it")
    key_id, secret = (
        read_secret(source, environ, f"storage.{name}") if source else None
        for name, source in (("access_key_id", storage.access_key_id), ("secret_access_key", storage.secret_access_key))
    )
    return replace(
        location, endpoint=storage.endpoint, region=storage.region, access_key_id=key_id, secret_access_key=secret
    )


def _catalog(settings: Settings) -> Catalog:
    """Prices are per image: others cannot be settled yet."""
    upstreams, models = {upstream.name: upstream for upstream in settings.upstreams}, []
    for model in settings.models:
        changes = ((int(change.since.timestamp()), change.price_per_image_usd) for change in model.price_changes)
        dated = ((0, model.price_per_image_usd), *changes)
        prices = tuple(Price(since_s, PerImage(usd_micros(price))) for since_s, price in dated)
        targets = tuple(
            Target(target.upstream, target.model, _capability(upstreams[target.upstream], target.model, model))
            for target in model.targets
        )
        models.append(Model(model.id, model.aliases, prices, targets, _links(settings, model)))
    return Catalog(models)


def _links(settings: Settings, model: tables.Model) -> LinkSource:
    """Returns whose links a model's images have. Raises: SettingsError for the gateway's without a storage."""
    links = model.links or settings.images.links
    if settings.storage.url:
        return LinkSource.GATEWAY if links == "gateway" else LinkSource.MIXED
    if links == "gateway":
        where = f"models '{model.id}': links" if model.links else "images.links"
        raise SettingsError(f'{where}: "gateway" needs a storage; set [storage] url, or use "provider"')
    return LinkSource.PROVIDER


def _capability(upstream: tables.Upstream, name: str, model: tables.Model) -> Capability:
    """The provider's capability, overridden by the declared one.

    No call is larger than every account's images per minute: it would never be sent.
    """
    declared = {name: value for name, value in asdict(upstream.capabilities).items() if value is not None}
    capability = PROVIDERS[upstream.provider].capability(name, declared)
    smallest = min(account.images_per_minute for account in upstream.accounts)
    edits = capability.edits if model.edits else None
    return replace(capability, max_images_per_call=min(capability.max_images_per_call, smallest), edits=edits)


def _upstreams(settings: Settings, environ: Mapping[str, str]) -> UpstreamSet:
    endpoints, pools, waits = {}, [], {}
    for upstream in settings.upstreams:
        name, provider, base_url = upstream.name, PROVIDERS[upstream.provider], upstream.base_url.rstrip("/")
        try:
            httpx.URL(base_url)
        except httpx.InvalidURL as error:
            problem = f"'{upstream.base_url}' is no address ({error})"
            raise SettingsError(f"upstreams '{name}': base_url: {problem}") from error
        hosts = provider.result_hosts if upstream.result_hosts is None else upstream.result_hosts
        endpoints[name] = UpstreamEndpoint(name, provider, base_url, LinkPolicy(hosts))
        accounts = tuple(_account(name, account, environ) for account in upstream.accounts)
        pools.append(Pool(name, accounts, _fields_of(upstream, PoolConfig)))
        waits[name] = _fields_of(upstream, WaitConfig)
    return UpstreamSet(endpoints, tuple(pools), waits)


def _fields_of(table: Table, kind: type[_T]) -> _T:
    """Copies the settings of a table to a domain value with fields of the same names."""
    return convert(table, kind, from_attributes=True)


def _account(upstream: str, account: tables.Account, environ: Mapping[str, str]) -> Account:
    keys = []
    for key in account.keys:
        secret = read_secret(key.secret, environ, f"upstreams '{upstream}': key '{key.name}': secret")
        keys.append(ProviderKey(upstream, account.name, key.name, secret))
    return Account(upstream, account.name, _fields_of(account, AccountLimits), tuple(keys))


def _tenants(settings: Settings, environ: Mapping[str, str], catalog: Catalog) -> tuple[ProvisionedTenant, ...]:
    """`[[tenants]]` with their keys, of which only the hashes are stored."""
    found, owners = [], dict[str, str]()
    for entry in settings.tenants:
        keys, models = [], None
        if entry.models is not None:
            models = frozenset(_model_id(name, catalog, entry.name) for name in entry.models)
        for number, declared in enumerate(entry.keys):
            key = _api_key(entry.name, declared, environ, f"tenants '{entry.name}': keys[{number}]")
            if key.key.id in owners:
                raise SettingsError(
                    f"tenants '{entry.name}': keys: key {key.key.id} is already used by tenant "
                    f"'{owners[key.key.id]}'. Each key may be used only once; `imagegate key hash` makes one"
                )
            owners[key.key.id] = entry.name
            keys.append(key)
        limits, quotas = _fields_of(entry.limits, Limits), _quotas(entry.quotas)
        tenant = Tenant(entry.name, models, entry.disabled, 0, limits, quotas, entry.weight, is_declared=True)
        percents = entry.alerts.percent
        tenant = replace(
            tenant,
            keep_hours=entry.keep_hours,
            storage_bytes=entry.storage_bytes,
            owner=entry.owner,
            contact=entry.contact,
            cost_centre=entry.cost_centre,
            tags=entry.tags,
            required_tags=frozenset(entry.required_tags),
            alert_percents=None if percents is None else tuple(sorted(set(percents))),
            alert_to=entry.alerts.to,
        )
        found.append(ProvisionedTenant(tenant, tuple(keys)))
    return tuple(found)


def _model_id(name: str, catalog: Catalog, tenant: str) -> str:
    model = catalog.find(name)
    if model is None:
        known = ", ".join(known for known, _ in catalog.names())
        raise SettingsError(f"tenants '{tenant}': models: there is no model '{name}'; known are {known}")
    return model.id


def _api_key(tenant: str, key: tables.ConfiguredKey, environ: Mapping[str, str], where: str) -> ProvisionedKey:
    if (key.hash is None) == (key.secret is None):
        raise SettingsError(
            f"{where}: give either hash, as `imagegate key hash` prints it, or secret = "
            '{ env = "VARIABLE" } or { file = "/path" }'
        )
    public_id, _, hashed = (key.hash or "").partition(".")
    if key.secret is not None:
        secret = read_secret(key.secret, environ, f"{where}: secret").plaintext
        public_id, hashed = key_id(secret) or "", digest(secret)
    if not public_id:
        raise SettingsError(
            f"{where}: secret: not an API key of this gateway (sk-ig- and 42 letters and digits); "
            "`imagegate key hash` makes one"
        )
    expires_at = int(key.expires_at.timestamp()) if key.expires_at else None
    limits, quotas = _fields_of(key.limits, Limits), _quotas(key.quotas)
    made = ApiKey(public_id, tenant, key.label, 0, expires_at, limits, quotas, True, role=key.role, tags=key.tags)
    return ProvisionedKey(made, hashed)


def _quotas(table: tables.Quotas) -> Quotas:
    hard, soft = (
        None if money is None else usd_micros(money) for money in (table.usd_per_month, table.soft_usd_per_month)
    )
    return Quotas(table.images_per_day, table.images_per_month, hard, soft)


def _admin_keys(settings: Settings, environ: Mapping[str, str]) -> tuple[AdminKey, ...]:
    """`admin.key` may name an environment variable that is not set: the shipped configuration does."""
    found: list[AdminKey] = []
    first = settings.admin.key
    if first and (first.env is None or first.file is not None or environ.get(first.env)):
        found.append(AdminKey("admin", read_admin_key(first, environ, "admin.key")))
    for entry in settings.admin.keys:
        secret = read_admin_key(entry.secret, environ, f"admin.keys '{entry.name}': secret")
        for other in found:
            if other.secret.plaintext == secret.plaintext:
                raise SettingsError(f"admin.keys '{entry.name}': the same key as '{other.name}'; use a new key")
        found.append(AdminKey(entry.name, secret, Role(entry.role)))
    return tuple(found)


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
