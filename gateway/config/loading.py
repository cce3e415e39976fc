"""Loads and validates settings from a file and environment variables: `IMAGEGATE_SERVER__PORT=9090`."""

import copy
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from gateway.config.schema import Settings
from gateway.config.upstreams import Limits, Quotas, SecretSource, SettingsError, Table
from gateway.domain.tenants import RESERVED

_ENV_PREFIX: Final = "IMAGEGATE_"
_USER: Final = re.compile(r"//[^/?#\s]*@")
"""A user and password in a URL."""
_SETTING: Final = re.compile(r"([a-z]\w*(?:\.\w+|\[\d+\])*): ", re.ASCII)
"""The setting at the beginning of an error: `storage.signing_keys[0]`."""
_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'
_KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string in quotes",
    "array": "a list",
    "object": "a table",
}


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Loads the settings of a file and the environment. Raises: SettingsError."""
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
    """Returns the file to read: `path`, else `IMAGEGATE_CONFIG`, else config/imagegate.toml."""
    return path or environ.get(f"{_ENV_PREFIX}CONFIG") or "config/imagegate.toml"


def locate(problem: str, environ: Mapping[str, str], source: str) -> SettingsError:
    """Returns an error that begins with the variable that its setting comes from, or else with the file `source`."""
    found = _SETTING.match(problem)
    steps = re.findall(r"\w+", found[1]) if found else []
    for depth in range(len(steps), 0, -1):
        variable = _ENV_PREFIX + "__".join(steps[:depth]).upper()
        if found and variable in environ:
            return SettingsError(f"{variable}: {problem[found.end() :] if depth == len(steps) else problem}")
    return SettingsError(f"{source}: {problem}")


def from_document(document: dict[str, object], environ: Mapping[str, str], source: str) -> Settings:
    """Validates a parsed document. Raises: SettingsError that names `source`."""
    document = copy.deepcopy(document)
    for variable in sorted(environ):
        path = variable.removeprefix(_ENV_PREFIX).lower().split("__")
        if variable.startswith(_ENV_PREFIX) and (len(path) > 1 or path[0] in Settings.__struct_fields__):
            _override(document, path, environ[variable], variable)
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise locate(_explain(str(error)), environ, source) from error
    for problem in _problems(settings):
        raise locate(problem, environ, source)
    return settings


def _override(document: dict[str, object], path: list[str], text: str, variable: str) -> None:
    """Sets one setting in the document. List items are numbered: `IMAGEGATE_MODELS__0__ID`."""
    kind: object = Settings
    holder: Any = document
    for depth, step in enumerate(path, 1):
        kind = _step_type(kind, step, variable)
        name: str | int = step
        if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
            name = int(step)
        elif isinstance(holder, dict):
            holder.setdefault(step, {})
        else:
            raise SettingsError(f"{variable}: the configuration file has no entry '{step}' to override")
        if depth == len(path):
            holder[name] = _parse(kind, text, variable)
        holder = holder[name]


def _parse(kind: object, text: str, variable: str) -> object:
    """Converts a variable's text to the setting's type. Tables and lists are TOML."""
    plain = _plain_type(kind)
    try:
        if get_origin(plain) is tuple or (isinstance(plain, type) and issubclass(plain, Table)):
            return tomllib.loads(f"value = {text}")["value"]
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{variable}: expected a TOML list or table: {error}") from error
    except msgspec.ValidationError as error:
        expected = _expected_in_words(kind) or _type_in_words(str(error).partition(", got")[0], variable.lower())
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
    yield from _twice("alerts.endpoints", (endpoint.name for endpoint in settings.alerts.endpoints))
    yield from _twice("tenants", (tenant.name for tenant in settings.tenants))
    for name in (tenant.name for tenant in settings.tenants if tenant.name.startswith(RESERVED)):
        yield f"tenants '{name}': names that begin with '{RESERVED}' are those of deleted tenants; choose another"
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


def _explain(message: str) -> str:
    """Rewrites msgspec's message: the path first, then what is expected, in words."""
    problem, _, path = message.replace("Object missing", "missing").partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    kind: object = Settings
    for step in re.findall(r"\w+", path.replace("[...]", "[0]")):
        kind = _step_type(kind, step, path)
    expected = _expected_in_words(kind)
    wanted, _, got = problem.partition(", got ")
    got = got.strip("`")
    ending = f", got {'a decimal number' if got == 'float' else _KINDS.get(got, got)}" if got else ""
    if "unknown field" in problem:
        problem = _unknown_setting(problem.split("`")[1], _plain_type(kind))
    elif expected == _SOURCE and wanted.startswith("Expected `object") and got == "str":
        problem = f"never write the secret itself here; use {_SOURCE}"
    elif expected and ("regex" in problem or got):
        problem = f"expected {expected}{ending}"
    else:
        problem = f"expected {_type_in_words(wanted, path)}{ending}" if wanted.startswith("Expected") else problem
        problem += f"; expected {expected}" if expected else ""
    return f"{path}: {problem}" if path else problem


def _type_in_words(problem: str, path: str) -> str:
    """Describes the type and the bound in msgspec's "Expected `int` >= 1" for the setting at `path`."""
    match = re.fullmatch(r"Expected `(\w+)[^`]*`(.*)", problem)
    if not match:
        return problem
    is_time = match[1] == "float" and path.endswith("_s")
    return ("a number of seconds" if is_time else _KINDS.get(match[1], match[1])) + match[2]


def _unknown_setting(name: str, table: object) -> str:
    for other, kind in (("limits", Limits), ("quotas", Quotas)):
        if name in kind.__struct_fields__ and table in {Limits, Quotas} and table is not kind:
            return f"unknown setting `{name}`; it belongs to {other}"
    known = table.__struct_fields__ if isinstance(table, type) and issubclass(table, Table) else ()
    return f"unknown setting `{name}`{_nearest(name, known)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Suggests a similar known name, as the end of a message."""
    matches = get_close_matches(name, list(known), 1)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def _expected_in_words(kind: object) -> str:
    """Describes the valid values of a setting of this type; empty if the type is enough."""
    plain = _plain_type(kind)
    if plain is SecretSource:
        return _SOURCE
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    notes = [note for member in members for note in getattr(member, "__metadata__", ())]
    return next((note.description for note in notes if isinstance(note, Meta) and note.description), "")


def _step_type(kind: object, step: str, place: str) -> object:
    """Returns the type of a setting inside another one. Raises: SettingsError for an unknown name, naming `place`."""
    kind, known = _plain_type(kind), ""
    if isinstance(kind, type) and issubclass(kind, Table):
        types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        if step in types:
            return types[step]
        known = _nearest(step, types)
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{place}: unknown setting `{step}`{known}")


def _plain_type(kind: object) -> object:
    """Strips Annotated and `| None` from a type."""
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not tuple and get_origin(kind) is not Literal and len(members) == 1:
        return _plain_type(members[0])
    return kind
