"""Error messages of settings: the path, the problem, and what is expected."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from gateway.config.schema import Settings
from gateway.config.upstreams import Limits, Quotas, SecretSource, SettingsError, Table

_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'
_EXPECTED: Final = re.compile(r"Expected (`[^`]+`)(.*?)(?:, got (`[^`]+`))?")
"""msgspec's message: type, bound, and the actual type."""
_KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string in quotes",
    "array": "a list",
    "object": "a table",
}


def explain(message: str) -> str:
    """Rewrites msgspec's message: the path first, then what is expected, in words."""
    problem, _, path = message.replace("Object missing", "missing").partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    expected, match = expected_in_words(path), _EXPECTED.fullmatch(problem)
    kind, bound, got = match.groups() if match else ("", "", None)
    ending = ""
    if got:
        ending = ", got a decimal number" if got == "`float`" else f", got {type_in_words(got)}"
    if "unknown field" in problem:
        problem = _unknown_setting(problem.split("`")[1], path)
    elif expected == _SOURCE and kind.startswith("`object") and got == "`str`":
        problem = f"never write the secret itself here; use {_SOURCE}"
    elif expected and ("regex" in problem or got):
        problem = f"expected {expected}{ending}"
    else:
        problem = f"expected {type_in_words(kind, path)}{bound}{ending}" if match else problem
        problem += f"; expected {expected}" if expected else ""
    return f"{path}: {problem}" if path else problem


def type_in_words(name: str, path: str = "") -> str:
    """Describes one of msgspec's types for the setting at `path`."""
    plain = name.strip("`").removesuffix(" | null")
    if path.endswith("_s") and plain == "float":
        return "a number of seconds"
    return _KINDS.get(plain, plain)


def _unknown_setting(name: str, path: str) -> str:
    table = plain_type(_type_at(path))
    for other, kind in (("limits", Limits), ("quotas", Quotas)):
        if name in kind.__struct_fields__ and table in {Limits, Quotas} and table is not kind:
            return f"unknown setting `{name}`; it belongs to {other}"
    known = table.__struct_fields__ if isinstance(table, type) and issubclass(table, Table) else ()
    return f"unknown setting `{name}`{_nearest(name, known)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Suggests a similar known name, as the end of a message."""
    matches = get_close_matches(name, list(known), 1)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def _type_at(path: str) -> object:
    kind: object = Settings
    for step in re.findall(r"\w+", path.replace("[...]", "[0]")):
        kind = step_type(kind, step, path)
    return kind


def expected_in_words(path: str) -> str:
    """Describes the valid values of a setting; empty if its type is enough."""
    try:
        kind = _type_at(path)
    except SettingsError:
        return ""
    plain = plain_type(kind)
    if plain is SecretSource:
        return _SOURCE
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    notes = [note for member in members for note in getattr(member, "__metadata__", ())]
    return next((note.description for note in notes if isinstance(note, Meta) and note.description), "")


def step_type(kind: object, step: str, variable: str) -> object:
    """Returns the type of a setting inside another one. Raises: SettingsError for an unknown name."""
    kind, known = plain_type(kind), ""
    if isinstance(kind, type) and issubclass(kind, Table):
        types = {field.name: field.type for field in msgspec.structs.fields(kind)}
        if step in types:
            return types[step]
        known = _nearest(step, types)
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{variable}: unknown setting `{step}`{known}")


def plain_type(kind: object) -> object:
    """Strips Annotated and `| None` from a type."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not tuple and get_origin(kind) is not Literal and len(members) == 1:
        return plain_type(members[0])
    return kind
