"""Converts a document to typed settings. Collects every mistake, and leaves out what is invalid."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

from gateway.config.problems import Problems
from gateway.config.upstreams import Limits, Price, Quotas, SecretSource, SettingsError, Table, Usd

INVALID: Final = object()
_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'
_KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string in quotes",
    "array": "a list",
    "object": "a table",
}
_NAME: Final = re.compile(r"[a-z]{1,20}(_[a-z0-9]{1,20})*_?")
"""Names of settings, and misspelled ones. A secret in the place of a name is not repeated."""


def read_table(value: object, kind: type[Table], path: str, problems: Problems) -> Any:
    """Returns a table of this kind, or INVALID if a required setting is missing or invalid."""
    if not isinstance(value, dict):
        problems.add(path, _table_problem(value, kind, path))
        return INVALID
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, object] = {}
    misspelled = {_nearest(name, fields) for name in value if name not in fields}
    for name, item in value.items():
        at = f"{path}.{name}".lstrip(".")
        if name not in fields:
            problems.add(path, unknown_setting(name, kind), at)
        elif name in misspelled and isinstance(item, dict):
            continue  # the misspelled table has the rest of it
        elif (found := _read_value(item, fields[name].type, at, problems)) is not INVALID:
            values[fields[name].name] = found
        else:
            problems.incomplete.add(at)
    missing = [field for field in fields.values() if field.required and field.name not in values]
    for field in missing:
        name = field.encode_name
        if name not in value and name not in misspelled and not problems.is_partial:
            expected = expected_in_words(field.type)
            problems.add(path, f"missing required field `{name}`{f'; expected {expected}' if expected else ''}")
    is_whole = all(_replace_missing(field, value, values, path, problems) for field in missing)
    return kind(**values) if is_whole else INVALID


def _replace_missing(
    field: FieldInfo, value: Mapping[str, object], values: dict[str, object], path: str, problems: Problems
) -> bool:
    """Puts something in the place of a required setting that is missing or invalid, so that the rest can be checked.

    Returns: False if there is nothing to put there.
    """
    kind = plain_type(field.type)
    if get_origin(kind) is tuple:
        values[field.name] = ()
        problems.incomplete.add(f"{path}.{field.encode_name}".lstrip("."))
    elif kind is str and isinstance(value.get(field.encode_name, 0), str | int | float | Decimal):
        values[field.name] = "0" if field.type == Price else str(value.get(field.encode_name, ""))
    else:
        return False
    return True


def _table_problem(value: object, kind: type[Table], path: str) -> str:
    if kind is SecretSource:
        secret = "never write the secret itself here; " if isinstance(value, str) else ""
        return f"{secret}use {_SOURCE}" if secret else f"expected {_SOURCE}"
    if isinstance(value, list):
        return f"expected one table; write [{_heading(path)}] once, in single brackets"
    return f"expected a table, got {_kind_in_words(value)}"


def _heading(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)


def _read_value(value: object, kind: object, path: str, problems: Problems) -> object:
    plain = plain_type(kind)
    if (table := table_of(kind)) and (plain is table or isinstance(value, dict)):
        return read_table(value, table, path, problems)
    if get_origin(plain) is not tuple or not value:
        return _read_leaf(value, kind, path, problems)
    if isinstance(value, dict):
        problems.add(path, f"expected a list; write [[{_heading(path)}]] in double brackets")
        return INVALID
    if not isinstance(value, list):
        return _read_leaf(value, kind, path, problems)
    bounds = (meta.max_length for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, Meta))
    if (bound := next(filter(None, bounds), None)) and len(value) > bound:
        problems.add(path, f"expected at most {bound} entries, got {len(value)}")
        return INVALID
    items = [_read_value(item, get_args(plain)[0], f"{path}[{at}]", problems) for at, item in enumerate(value)]
    if INVALID in items:
        problems.kept[path] = [at for at, item in enumerate(items) if item is not INVALID]
        problems.incomplete.add(path)
    return tuple(item for item in items if item is not INVALID)


def _read_leaf(value: object, kind: object, path: str, problems: Problems) -> object:
    if isinstance(value, Decimal):
        value = float(value)
    is_decimal = bool({Price, Usd} & set(_members(kind)))
    text = f"{Decimal(repr(value)):f}" if is_decimal and type(value) in {int, float} else value
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        problems.add(path, explain(str(error), kind, path))
        return INVALID


def explain(message: str, kind: object, path: str) -> str:
    """Rewrites msgspec's message: what is expected, in words, and what was found."""
    problem, _, _ = message.partition(" - at `$")
    expected = expected_in_words(kind)
    wanted, _, got = problem.partition(", got ")
    found = got.strip("`")
    ending = f", got {'a decimal number' if found == 'float' else _KINDS.get(found, found)}" if got else ""
    if expected and ("regex" in problem or got):
        return f"expected {expected}{ending}"
    problem = f"expected {type_in_words(wanted, path)}{ending}" if wanted.startswith("Expected") else problem
    return problem + (f"; expected {expected}" if expected else "")


def type_in_words(problem: str, path: str) -> str:
    """Describes the type and the bound in msgspec's "Expected `int` >= 1" for the setting at `path`."""
    match = re.fullmatch(r"Expected `(\w+)[^`]*`(.*)", problem)
    if not match:
        return problem
    is_time = match[1] == "float" and path.endswith("_s")
    return ("a number of seconds" if is_time else _KINDS.get(match[1], match[1])) + match[2]


def _kind_in_words(value: object) -> str:
    kinds = {bool: "bool", int: "int", str: "str", list: "array"}
    return _KINDS[kinds[type(value)]] if type(value) in kinds else "a decimal number or a date"


def unknown_setting(name: str, table: object) -> str:
    for other, kind in (("limits", Limits), ("quotas", Quotas)):
        if name in kind.__struct_fields__ and table in {Limits, Quotas} and table is not kind:
            return f"unknown setting `{name}`; it belongs to {other}"
    known = table.__struct_encode_fields__ if isinstance(table, type) and issubclass(table, Table) else ()
    shown = f" `{name}`" if _NAME.fullmatch(name) and table is not SecretSource else ""
    if nearest := _nearest(name, known):
        return f"unknown setting{shown}; did you mean `{nearest}`?"
    return f"unknown setting{shown}" + ("" if shown else f"; known are {', '.join(known)}" if known else "")


def _nearest(name: str, known: Iterable[str]) -> str:
    """Returns a similar known name, or an empty string."""
    return next(iter(get_close_matches(name, list(known), 1)), "")


def expected_in_words(kind: object) -> str:
    """Describes the valid values of a setting of this type; empty if the type is enough."""
    plain = plain_type(kind)
    if plain is SecretSource:
        return _SOURCE
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    notes = [note for member in _members(kind) for note in getattr(member, "__metadata__", ())]
    return next((note.description for note in notes if isinstance(note, Meta) and note.description), "")


def _members(kind: object) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)


def step_type(kind: object, step: str, place: str) -> object:
    """Returns the type of a setting inside another one. Raises: SettingsError for an unknown name, naming `place`."""
    kind = table_of(kind) or plain_type(kind)
    if isinstance(kind, type) and issubclass(kind, Table):
        types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        if step in types:
            return types[step]
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{place}: {unknown_setting(step, kind)}")


def table_of(kind: object) -> type[Table] | None:
    """Returns the table that a value of this type is, or may be."""
    for member in map(plain_type, _members(kind)):
        if isinstance(member, type) and issubclass(member, Table):
            return member
    return None


def plain_type(kind: object) -> object:
    """Strips Annotated and `| None` from a type."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) not in {tuple, Literal, frozenset, dict} and len(members) == 1:
        return plain_type(members[0])
    return kind
