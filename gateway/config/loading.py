"""Loads and validates settings from a file and the environment."""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.environment import ENV_PREFIX, overlay
from gateway.config.messages import explain
from gateway.config.schema import Settings
from gateway.config.types import SettingsError

DEFAULT_FILE: Final = "config/imagegate.toml"


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Loads the settings of a file and the environment.

    `path` None means `IMAGEGATE_CONFIG`, else `config/imagegate.toml`.
    Raises: SettingsError.
    """
    path = config_path(path, environ)
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}). Set --config or IMAGEGATE_CONFIG to a readable file."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: invalid TOML: {error}") from error
    return from_document(document, environ, path)


def config_path(path: str | None, environ: Mapping[str, str]) -> str:
    """Returns the path of the configuration file."""
    return path or environ.get(f"{ENV_PREFIX}CONFIG") or DEFAULT_FILE


def from_document(document: dict[str, object], environ: Mapping[str, str], source: str) -> Settings:
    """Validates a parsed document. Raises: SettingsError that names `source`."""
    document = copy.deepcopy(document)
    overlay(document, environ)
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {explain(str(error))}") from error
    for problem in _problems(settings):
        raise SettingsError(f"{source}: {problem}")
    return settings


def _problems(settings: Settings) -> Iterable[str]:
    """Checks what types cannot express."""
    yield from _twice("upstreams", (upstream.name for upstream in settings.upstreams))
    for upstream in settings.upstreams:
        yield from _twice(f"upstreams '{upstream.name}': accounts", (account.name for account in upstream.accounts))
        for account in upstream.accounts:
            names = (key.name for key in account.keys)
            yield from _twice(f"upstreams '{upstream.name}': account '{account.name}': keys", names)
    yield from _server_problems(settings)
    yield from _twice("models", (name for model in settings.models for name in (model.id, *model.aliases)))
    for model in settings.models:
        dates = (change.since.isoformat() for change in model.price_changes)
        yield from _twice(f"models '{model.id}': price_changes: since", dates, "date")
    known = {upstream.name for upstream in settings.upstreams}
    for model in settings.models:
        for target in model.targets:
            if target.upstream not in known:
                yield (
                    f"models '{model.id}': targets: unknown upstream '{target.upstream}'; "
                    f"expected one of {', '.join(sorted(known))}"
                )
    yield from _twice("tenants", (tenant.name for tenant in settings.tenants))
    yield from _twice("admin.keys", ("admin", *(key.name for key in settings.admin.keys)))
    if any(key.name == "configuration" for key in settings.admin.keys):
        yield "admin.keys: the name 'configuration' is reserved for [[tenants]] in the audit; choose another"


def _server_problems(settings: Settings) -> Iterable[str]:
    if "*" not in settings.server.cors_origins and any(not _is_origin(o) for o in settings.server.cors_origins):
        yield "server.cors_origins: each item must be '*' or an origin, as 'https://app.example.org'"
    for proxy in settings.server.trusted_proxies:
        try:
            ip_network(proxy)
        except ValueError as error:
            yield f"server.trusted_proxies: {error}; expected addresses or networks, as '10.0.0.0/8'"
    for name, table in (("admin", settings.admin), ("metrics", settings.metrics)):
        if table.port and table.port == settings.server.port:
            yield f"{name}.port: {table.port} is already server.port; choose another, or 0 to share it"
    if settings.admin.port and settings.admin.port == settings.metrics.port:
        yield f"admin.port: {settings.admin.port} is already metrics.port; choose another"
    if settings.server.shutdown_timeout_s < settings.requests.deadline_s:
        yield "server.shutdown_timeout_s: must be at least requests.deadline_s, or a shutdown discards billed images"
    if settings.server.shutdown_delay_s > settings.server.shutdown_timeout_s:
        yield "server.shutdown_delay_s: must not exceed server.shutdown_timeout_s, which includes it"


def _is_origin(text: str) -> bool:
    return text.startswith(("http://", "https://")) and text.count("/") == 2


def _twice(where: str, names: Iterable[str], what: str = "name") -> Iterable[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{where}: duplicate {what} '{name}'; each {what} must be unique"
        seen.add(name)
