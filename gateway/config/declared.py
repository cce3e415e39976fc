"""Resolves `[[tenants]]` with their keys, of which only the hashes are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.config import upstreams as tables
from gateway.config.problems import Problems
from gateway.config.secrets import read_key
from gateway.config.upstreams import SettingsError, fields_of
from gateway.domain.billing import usd_micros
from gateway.domain.catalog import Catalog
from gateway.domain.tenants import ApiKey, Limits, Quotas, Tenant, digest, key_id
from gateway.tenants.provisioning import ProvisionedKey, ProvisionedTenant


def declared_tenants(
    tenants: Sequence[tables.ConfiguredTenant], environ: Mapping[str, str], catalog: Catalog, problems: Problems
) -> tuple[ProvisionedTenant, ...]:
    found, owners = [], dict[str, str]()
    for number, entry in enumerate(tenants):
        keys, models, where = [], None, f"tenants[{number}]"
        if entry.models is not None:
            models = _model_ids(entry.models, catalog, problems, f"{where}.models")
        for at, declared in enumerate(entry.keys):
            with problems.collecting():
                key = _api_key(entry.name, declared, environ, f"{where}.keys[{at}]")
                if key.key.id in owners:
                    raise SettingsError(
                        f"{where}.keys[{at}]: key {key.key.id} is already used by tenant "
                        f"'{owners[key.key.id]}'. Each key may be used only once; `imagegate key hash` makes one"
                    )
                owners[key.key.id] = entry.name
                keys.append(key)
        limits, quotas = fields_of(entry.limits, Limits), _quotas(entry.quotas)
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


def _model_ids(names: Sequence[str], catalog: Catalog, problems: Problems, where: str) -> frozenset[str]:
    found = {name: catalog.find(name) for name in names}
    known = ", ".join(known for known, _ in catalog.names())
    for number, name in enumerate(names):
        if found[name] is None and problems.is_known_to_lack("models"):
            with problems.collecting():
                raise SettingsError(f"{where}[{number}]: there is no model '{name}'; known are {known}")
    return frozenset(model.id for model in found.values() if model)


def _api_key(tenant: str, key: tables.ConfiguredKey, environ: Mapping[str, str], where: str) -> ProvisionedKey:
    if (key.hash is None) == (key.secret is None):
        raise SettingsError(
            f"{where}: give either hash, as `imagegate key hash` prints it, or secret = "
            '{ env = "VARIABLE" } or { file = "/path" }'
        )
    public_id, _, hashed = (key.hash or "").partition(".")
    if key.secret is not None:
        secret = read_key(key.secret, environ, f"{where}.secret").plaintext
        public_id, hashed = key_id(secret) or "", digest(secret)
    if not public_id:
        raise SettingsError(
            f"{where}.secret: not an API key of this gateway (sk-ig- and 42 letters and digits); "
            "`imagegate key hash` makes one"
        )
    expires_at = int(key.expires_at.timestamp()) if key.expires_at else None
    limits, quotas = fields_of(key.limits, Limits), _quotas(key.quotas)
    made = ApiKey(public_id, tenant, key.label, 0, expires_at, limits, quotas, True, role=key.role, tags=key.tags)
    return ProvisionedKey(made, hashed)


def _quotas(table: tables.Quotas) -> Quotas:
    hard, soft = (
        None if money is None else usd_micros(money) for money in (table.usd_per_month, table.soft_usd_per_month)
    )
    return Quotas(table.images_per_day, table.images_per_month, hard, soft)
