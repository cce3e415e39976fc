"""Settings from environment variables: `IMAGEGATE_SERVER__PORT=9090`."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args, get_origin

import msgspec

from gateway.config.problems import ENV_PREFIX, Problems
from gateway.config.schema import Settings
from gateway.config.upstreams import Problem, SecretSource, SettingsError, Table
from gateway.config.validation import expected_in_words, plain_type, step_type, table_of, type_in_words

_SHOWN_MAX_CHARS: Final = 20
"""Longer values may be secrets in the wrong variable."""
_SIMILAR: Final = 0.9
_OF_SERVICES: Final = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes and Docker set such variables for each service."""
_OTHERS: Final = frozenset({"CONFIG", "URL", "ADMIN_KEY", "CONFORMANCE_KEY"})
"""Variables of the commands."""


def override(document: dict[str, object], environ: Mapping[str, str], problems: Problems) -> None:
    """Sets the settings that variables name in the document. An empty variable is no value."""
    for variable in sorted(environ):
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        is_setting = variable.startswith(ENV_PREFIX) and (len(path) > 1 or path[0] in Settings.__struct_fields__)
        if is_setting and environ[variable]:
            try:
                _override(document, path, environ[variable], variable)
            except SettingsError as error:
                problems.found.append(Problem(str(error), variable))


def _override(document: dict[str, object], path: list[str], text: str, variable: str) -> None:
    """Sets one setting. List items are numbered: `IMAGEGATE_MODELS__0__ID`. Raises: SettingsError."""
    kind: object = Settings
    for step in path:
        kind = step_type(kind, step, variable)
    value = _parse(kind, text, variable)
    holder: Any = document
    for depth, step in enumerate(path, 1):
        name: str | int = step
        if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
            name = int(step)
        elif isinstance(holder, dict):
            holder.setdefault(step, {})
        else:
            raise SettingsError(f"{variable}: the configuration file has no entry '{step}' to override")
        if depth == len(path):
            holder[name] = value
        holder = holder[name]


def _parse(kind: object, text: str, variable: str) -> object:
    """Converts a variable's text to the setting's type. Tables and lists are TOML."""
    plain = plain_type(kind)
    try:
        if get_origin(plain) is tuple or (isinstance(plain, type) and issubclass(plain, Table)):
            return tomllib.loads(f"value = {text}")["value"]
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except tomllib.TOMLDecodeError as error:
        if plain is SecretSource:
            remedy = f"it names the source of the secret; set {variable}__ENV or {variable}__FILE instead"
            raise SettingsError(f"{variable}: {remedy}") from error
        raise SettingsError(f"{variable}: expected a TOML list or table: {error}") from error
    except msgspec.ValidationError as error:
        expected = expected_in_words(kind) or type_in_words(str(error).partition(", got")[0], variable.lower())
        is_shown = len(text) <= _SHOWN_MAX_CHARS and "@" not in text
        shown = f"invalid value {text!r}; " if is_shown else ""
        raise SettingsError(f"{variable}: {shown}expected {expected}") from error


def misspelled_variables(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields variables that set nothing, each with the variable that was probably meant."""
    own = {name for name in environ if name.upper().startswith(ENV_PREFIX)}
    taken = {f"{ENV_PREFIX}{name}" for name in _OTHERS} | {source.env for source in _sources(settings)}
    known = {ENV_PREFIX + "__".join(path).upper() for path in _paths(Settings)}
    by_words = {_words(name): name for name in sorted(known)}
    for name in sorted(own - taken):
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if name.startswith(ENV_PREFIX) and ((len(path) > 1 and path[0]) or path[0] in Settings.__struct_fields__):
            continue
        if _OF_SERVICES.search(name) or _SERVICE_URL.match(environ[name]):
            continue
        field = "__" + name.upper().removeprefix(ENV_PREFIX)
        if meant := next((one for one in _fields_of_sections() if one.endswith(field)), ""):
            yield name, meant
        elif match := get_close_matches(_words(name), by_words, 1, _SIMILAR):
            parts = by_words[match[0]].split("_0_")
            numbers = [*re.findall(r"(?<=_)\d+(?=_)", name), *["0"] * len(parts)]
            yield (
                name,
                "".join(f"{part}_{number}_" for part, number in zip(parts[:-1], numbers, strict=False)) + parts[-1],
            )


def _fields_of_sections() -> Iterator[str]:
    """Yields the variables of all fields of sections, as `IMAGEGATE_SERVER__PORT`, in the order of the file."""
    paths = (path for path in _paths(Settings) if len(path) == 2)
    return (ENV_PREFIX + "__".join(path).upper() for path in paths)


def _words(name: str) -> str:
    return re.sub(r"(?<=_)\d+(?=_)", "0", re.sub("_+", "_", name.upper()))


def _paths(kind: object) -> Iterator[list[str]]:
    """Yields the steps of every setting; 0 stands for any item of a list."""
    plain = plain_type(kind)
    if table := table_of(kind):
        for field in msgspec.structs.fields(table):
            yield [field.encode_name]
            yield from ([field.encode_name, *rest] for rest in _paths(field.type))
    elif get_origin(plain) is tuple:
        yield from (["0", *rest] for rest in _paths(get_args(plain)[0]))


def _sources(value: object) -> Iterator[SecretSource]:
    if isinstance(value, SecretSource):
        yield value
    elif isinstance(value, Table):
        for name in value.__struct_fields__:
            yield from _sources(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _sources(item)
