"""Loads and validates settings from a file and environment variables: `IMAGEGATE_SERVER__PORT=9090`."""

import copy
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, get_origin

import msgspec

from gateway.config.messages import expected_in_words, explain, plain_type, step_type, type_in_words
from gateway.config.schema import Settings
from gateway.config.upstreams import SettingsError, Table

DEFAULT_FILE: Final = "config/imagegate.toml"
ENV_PREFIX: Final = "IMAGEGATE_"
_USER: Final = re.compile(r"//[^/?#\s]*@")
"""A user and password in a URL."""


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
    return path or environ.get(f"{ENV_PREFIX}CONFIG") or DEFAULT_FILE


def from_document(document: dict[str, object], environ: Mapping[str, str], source: str) -> Settings:
    """Validates a parsed document. Raises: SettingsError that names `source`."""
    document = copy.deepcopy(document)
    for variable in sorted(environ):
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if variable.startswith(ENV_PREFIX) and (len(path) > 1 or path[0] in Settings.__struct_fields__):
            _override(document, path, environ[variable], variable)
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {explain(str(error))}") from error
    for problem in _problems(settings):
        raise SettingsError(f"{source}: {problem}")
    return settings


def _override(document: dict[str, object], path: list[str], text: str, variable: str) -> None:
    """Sets one setting in the document. List items are numbered: `IMAGEGATE_MODELS__0__ID`."""
    kind: object = Settings
    holder: Any = document
    for depth, step in enumerate(path, 1):
        kind = step_type(kind, step, variable)
        name: str | int = step
        if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
            name = int(step)
        elif isinstance(holder, dict):
            holder.setdefault(step, {})
        else:
            raise SettingsError(f"{variable}: the configuration file has no entry '{step}' to override")
        if depth == len(path):
            holder[name] = _parse(kind, text, variable, ".".join(path))
        holder = holder[name]


def _parse(kind: object, text: str, variable: str, setting: str) -> object:
    """Converts a variable's text to the setting's type. Tables and lists are TOML."""
    plain = plain_type(kind)
    try:
        if get_origin(plain) is tuple or (isinstance(plain, type) and issubclass(plain, Table)):
            return tomllib.loads(f"value = {text}")["value"]
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{variable}: expected a TOML list or table: {error}") from error
    except msgspec.ValidationError as error:
        kind_name = str(error).partition(", got")[0].partition("Expected ")[2]
        expected = expected_in_words(setting) or type_in_words(kind_name, setting)
        shown = _USER.sub("//...@", text)
        raise SettingsError(f"{variable}: invalid value {shown!r}; expected {expected}") from error


def _problems(settings: Settings) -> Iterable[str]:
    """Checks what types cannot express."""
    yield from _twice("upstreams", (upstream.name for upstream in settings.upstreams))
    for upstream in settings.upstreams:
        where = f"upstreams '{upstream.name}': account"
        yield from _twice(f"{where}s", (account.name for account in upstream.accounts))
        for account in upstream.accounts:
            yield from _twice(f"{where} '{account.name}': keys", (key.name for key in account.keys))
    yield from _server_problems(settings)
    yield from _twice("models", (name for model in settings.models for name in (model.id, *model.aliases)))
    known = sorted(upstream.name for upstream in settings.upstreams)
    for model in settings.models:
        dates = (change.since.isoformat() for change in model.price_changes)
        yield from _twice(f"models '{model.id}': price_changes: since", dates, "date")
        for name in (target.upstream for target in model.targets if target.upstream not in known):
            yield f"models '{model.id}': targets: unknown upstream '{name}'; expected one of {', '.join(known)}"
    yield from _twice("tenants", (tenant.name for tenant in settings.tenants))
    yield from _twice("admin.keys", ("admin", *(key.name for key in settings.admin.keys)))
    if any(key.name == "configuration" for key in settings.admin.keys):
        yield "admin.keys: the name 'configuration' is reserved for [[tenants]] in the audit; choose another"


def _server_problems(settings: Settings) -> Iterable[str]:
    server, admin, metrics = settings.server, settings.admin, settings.metrics
    are_origins = all(re.fullmatch(r"https?://[^/]*", origin) for origin in server.cors_origins)
    if "*" not in server.cors_origins and not are_origins:
        yield "server.cors_origins: each item must be '*' or an origin, as 'https://app.example.org'"
    for proxy in server.trusted_proxies:
        try:
            ip_network(proxy)
        except ValueError as error:
            yield f"server.trusted_proxies: {error}; expected addresses or networks, as '10.0.0.0/8'"
    for name, table in (("admin", admin), ("metrics", metrics)):
        if table.port and table.port == server.port:
            yield f"{name}.port: {table.port} is already server.port; choose another, or 0 to share it"
    if admin.port and admin.port == metrics.port:
        yield f"admin.port: {admin.port} is already metrics.port; choose another"
    if server.shutdown_timeout_s < settings.requests.deadline_s:
        yield "server.shutdown_timeout_s: must be at least requests.deadline_s, or a shutdown discards billed images"
    if server.shutdown_delay_s > server.shutdown_timeout_s:
        yield "server.shutdown_delay_s: must not exceed server.shutdown_timeout_s, which includes it"


def _twice(where: str, names: Iterable[str], what: str = "name") -> Iterable[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{where}: duplicate {what} '{name}'; each {what} must be unique"
