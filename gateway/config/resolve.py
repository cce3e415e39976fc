"""Resolves settings into the values that the program is built from; every secret is read here.

The server, `imagegate check` and reloads call `resolve`, so a configuration that one accepts is valid for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import asdict

from gateway.api.admin import AdminKey, Role
from gateway.api.console.claims import OidcTerms
from gateway.config import places
from gateway.config import upstreams as tables
from gateway.config.alerts import AlertConfig, resolve_alerts
from gateway.config.console import resolve_oidc
from gateway.config.declared import declared_tenants
from gateway.config.egress import check_authorities, read_base_url, read_proxies
from gateway.config.loading import config_path, read_file
from gateway.config.prices import PriceReader
from gateway.config.problems import ENV_PREFIX, Problems
from gateway.config.schema import Redis, Settings
from gateway.config.secrets import read_admin_key, read_key, read_password, read_strong_secret
from gateway.config.time_zone import read_calendar
from gateway.config.upstreams import SecretSource, SettingsError, fields_of
from gateway.domain.accounts import Account, AccountLimits, Pool, PoolConfig, ProviderKey, Secret, WaitConfig
from gateway.domain.billing import BillingRule, usd_micros
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.catalog import Capability, Catalog, Model, Target
from gateway.domain.images import LinkSource
from gateway.domain.pricing import PerImage, Price
from gateway.generation.transport.proxies import ProxyRules
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.redis import FORMS, Credentials
from gateway.redis.client import parse_address
from gateway.scheduler.encryption import SecretBox
from gateway.storage.location import StorageLocation
from gateway.tenants.provisioning import ProvisionedTenant

_PEPPER_MIN_CHARS: Final = 16
"""As many hexadecimal digits are 64 random bits, more than can be tried offline against a leaked hash."""
_KEY_MIN_CHARS: Final = 32
"""As many hexadecimal digits are 128 random bits. Also of a key that signs links."""


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
    calendar: Calendar = UTC_CALENDAR
    signing_keys: tuple[str, ...] = ()  # of links, the current one first; empty: those that Redis holds
    alerts: AlertConfig = field(default_factory=AlertConfig)
    oidc: OidcTerms | None = None  # None: no sign-in by an identity provider
    variables: frozenset[str] = frozenset()  # names of environment variables that may set settings, in upper case


def read_config(path: str | None, environ: Mapping[str, str]) -> Config:
    """Reads a file, the environment and all secrets. Raises: SettingsError with every mistake."""
    problems = Problems()
    return _resolve(read_file(path, environ, problems), environ, problems, config_path(path, environ))


def resolve(settings: Settings, environ: Mapping[str, str], source: str = "") -> Config:
    """Reads all secrets from `environ` and files, and builds all domain values.

    Raises: SettingsError naming each setting and the fix.
    """
    return _resolve(settings, environ, Problems(), source)


def _resolve(settings: Settings, environ: Mapping[str, str], problems: Problems, source: str) -> Config:
    """Checks also the parts of `settings` that are left beside what is invalid."""
    catalog, pepper = _catalog(settings, problems), settings.api_keys.hash_pepper
    strong = partial(_strong_secrets, environ, problems)
    encryption_keys = strong("pool.encryption_keys", "an encryption key", settings.pool.encryption_keys)
    signing_keys = strong("storage.signing_keys", "a signing key", settings.storage.signing_keys)
    upstreams, tenants = (
        _upstreams(settings, environ, problems),
        declared_tenants(settings.tenants, environ, catalog, problems),
    )
    admin_keys = _admin_keys(settings, environ, problems)
    alerts = resolve_alerts(settings.alerts, environ, problems)
    oidc = resolve_oidc(settings.console.oidc, settings.server.public_url, environ, problems)
    hash_pepper = storage = None
    calendar = UTC_CALENDAR
    credentials = Credentials()
    with problems.collecting():
        if settings.requests.ca_file is not None:
            check_authorities(settings.requests.ca_file, "requests.ca_file")
    with problems.collecting():
        if pepper:
            hash_pepper = read_strong_secret(pepper, environ, "api_keys.hash_pepper", "a pepper", _PEPPER_MIN_CHARS)
    with problems.collecting():
        credentials = _redis_credentials(settings.redis, environ)
    with problems.collecting():
        calendar = read_calendar(settings.metering.time_zone)
    with problems.collecting():
        storage = places.storage_location(settings.storage, environ)
    problems.refuse(environ, source)
    return Config(
        settings,
        catalog,
        upstreams,
        tenants,
        admin_keys,
        hash_pepper.plaintext if hash_pepper else None,
        SecretBox(encryption_keys) if encryption_keys else None,
        credentials,
        BillingRule(settings.billing.charge_moderated, settings.billing.charge_unknown_outcomes),
        *places.journal_directory(settings, environ),
        storage,
        calendar,
        tuple(key.plaintext for key in signing_keys),
        alerts,
        oidc,
        frozenset(name.upper() for name, text in environ.items() if name.startswith(ENV_PREFIX) and text),
    )


def _strong_secrets(
    environ: Mapping[str, str], problems: Problems, where: str, what: str, sources: Sequence[SecretSource]
) -> list[Secret]:
    found = []
    for number, source in enumerate(sources):
        with problems.collecting():
            found.append(read_strong_secret(source, environ, f"{where}[{number}]", what, _KEY_MIN_CHARS))
    return found


def _redis_credentials(redis: Redis, environ: Mapping[str, str]) -> Credentials:
    """Also checks the URL. Raises: SettingsError."""
    if redis.url != "embedded":
        try:
            parse_address(redis.url)
        except ValueError as error:
            raise SettingsError(f"redis.url: {error}. Give {FORMS}.") from error
    passwords = (
        read_password(source, environ, f"redis.{name}") if source else None
        for name, source in (("password", redis.password), ("sentinel_password", redis.sentinel_password))
    )
    return Credentials(redis.username, *passwords)


def _catalog(settings: Settings, problems: Problems) -> Catalog:
    upstreams, models = {upstream.name: upstream for upstream in settings.upstreams if upstream.accounts}, []
    reader = PriceReader(settings.exchange_rates, problems)
    for number, model in enumerate(settings.models):
        where = f"models[{number}]"
        prices: tuple[Price, ...] = (Price(0, PerImage(0)),)
        found = [
            _target(settings, target, model, reader, f"{where}.targets[{at}]")
            for at, target in enumerate(model.targets)
            if target.upstream in upstreams
        ]
        targets = tuple(target for target in found if target)
        with problems.collecting():
            prices = reader.model_prices(model, where)
            if not prices:
                reader.check_known(model, {target.model: target.costs for target in targets}, where)
        with problems.collecting():
            links = _links(settings, model, f"{where}.links")
            owner = upstreams[targets[0].upstream].provider if targets else ""
            models.append(Model(model.id, model.aliases, prices, targets, links, model.prefer == "cheapest", owner))
    return Catalog(models)


def _target(
    settings: Settings, target: tables.Target, model: tables.Model, reader: PriceReader, where: str
) -> Target | None:
    """Returns a target; None if it has a mistake, which is collected."""
    at, upstream = next(one for one in enumerate(settings.upstreams) if one[1].name == target.upstream)
    facts = PROVIDERS[upstream.provider].models.get(target.model)
    retires_on = facts.retires_on if facts else None
    found: Target | None = None
    with reader.problems.collecting():
        costs = reader.costs(target.cost, facts, f"{where}.cost")
        capability = _capability(upstream, target, model, where, f"upstreams[{at}]")
        found = Target(upstream.name, target.model, capability, costs=costs, retires_on=retires_on)
    return found  # noqa: RET504 - after a mistake, it is None


def _links(settings: Settings, model: tables.Model, where: str) -> LinkSource:
    """Returns whose links a model's images have. Raises: SettingsError for the gateway's without a storage."""
    links = model.links or settings.images.links
    if settings.storage.url:
        return LinkSource.GATEWAY if links == "gateway" else LinkSource.MIXED
    if links == "gateway":
        where = where if model.links else "images.links"
        raise SettingsError(f'{where}: "gateway" needs a storage; set [storage] url, or use "provider"')
    return LinkSource.PROVIDER


def _capability(
    upstream: tables.Upstream, target: tables.Target, model: tables.Model, where: str, of_upstream: str
) -> Capability:
    """The provider's capability, overridden by the declared one. Raises: SettingsError if it cannot honour that.

    No call is larger than every account's images per minute: it would never be sent.
    """
    declared = {name: value for name, value in asdict(upstream.capabilities).items() if value is not None}
    try:
        capability = PROVIDERS[upstream.provider].capability(target.model, declared)
    except ValueError as error:
        raise SettingsError(f"{of_upstream}.capabilities.{error}") from error
    except LookupError as error:
        raise SettingsError(f"{where}.model: {error.args[0]}") from error
    smallest = min(account.images_per_minute for account in upstream.accounts)
    edits = capability.edits if model.edits else None
    return replace(capability, max_images_per_call=min(capability.max_images_per_call, smallest), edits=edits)


def _upstreams(settings: Settings, environ: Mapping[str, str], problems: Problems) -> UpstreamSet:
    endpoints, pools, waits = {}, [], {}
    for number, upstream in enumerate(settings.upstreams):
        where, name, provider = f"upstreams[{number}]", upstream.name, PROVIDERS[upstream.provider]
        base_url, proxies = upstream.base_url or "", ProxyRules()
        with problems.collecting():
            if base_url or problems.is_known_to_lack(f"{where}.base_url"):
                base_url = read_base_url(upstream, provider, where)
            proxies = read_proxies(upstream, environ, base_url, where)
        hosts = provider.result_hosts if upstream.result_hosts is None else upstream.result_hosts
        endpoints[name] = UpstreamEndpoint(name, provider, base_url, LinkPolicy(hosts), proxies)
        accounts = tuple(
            _account(name, account, environ, problems, f"{where}.accounts[{at}]")
            for at, account in enumerate(upstream.accounts)
        )
        caps = ((account.name, account.alert_usd_per_day) for account in upstream.accounts)
        alerts = {account: usd_micros(cap) for account, cap in caps if cap is not None}
        pools.append(Pool(name, accounts, fields_of(upstream, PoolConfig), alerts))
        waits[name] = fields_of(upstream, WaitConfig)
    return UpstreamSet(endpoints, tuple(pools), waits)


def _account(
    upstream: str, account: tables.Account, environ: Mapping[str, str], problems: Problems, where: str
) -> Account:
    keys = []
    for number, key in enumerate(account.keys):
        with problems.collecting():
            secret = read_key(key.secret, environ, f"{where}.keys[{number}].secret")
            keys.append(ProviderKey(upstream, account.name, key.name, secret))
    return Account(upstream, account.name, fields_of(account, AccountLimits), tuple(keys))


def _admin_keys(settings: Settings, environ: Mapping[str, str], problems: Problems) -> tuple[AdminKey, ...]:
    found: list[AdminKey] = []
    sources = [("admin", Role.ADMIN, settings.admin.key, "admin.key")] if settings.admin.key else []
    sources += [
        (entry.name, Role(entry.role), entry.secret, f"admin.keys[{number}].secret")
        for number, entry in enumerate(settings.admin.keys)
    ]
    for name, role, source, where in sources:
        with problems.collecting():
            secret = read_admin_key(source, environ, where)
            for other in found:
                if other.secret.plaintext == secret.plaintext:
                    raise SettingsError(f"{where}: the same key as '{other.name}'; use a new key")
            found.append(AdminKey(name, secret, role))
    return tuple(found)
