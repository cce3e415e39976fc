"""Saying what is wrong with a setting, and what is expected there, in words."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from gateway.config.schema import Settings
from gateway.config.types import SecretSource, SettingsError, Table
from gateway.config.upstreams import Limits, Quotas

_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'


_KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "array": "a list",
    "object": "a table",
}


def explain(message: str) -> str:
    """Msgspec's message with the path first and, where it helps, what is expected there in words."""
    what, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    what = what.replace("Object missing", "missing")
    wanted, _, got = what.partition(", got ")
    expected = expected_in_words(where)
    if "unknown field" in what:
        what = _unknown(what.split("`")[1], where)
    elif expected == _SOURCE and wanted.startswith("Expected `object") and got == "`str`":
        what = f"never write the secret itself here; give {_SOURCE}"
    elif expected and ("regex" in what or got):
        what = f"expected {expected}" + _not(got)
    elif expected:
        what = f"{_in_words(what, where)}; expected {expected}"
    else:
        what = _in_words(what, where)
    return f"{where}: {what}" if where else what


def _in_words(what: str, where: str) -> str:
    found = re.fullmatch(r"Expected (`[^`]+`)(.*?)(?:, got (`[^`]+`))?", what)
    if not found:
        return what
    return f"expected {type_in_words(found[1], where)}{found[2]}{_not(found[3])}"


def _not(got: str | None) -> str:
    """What stands there instead, as the end of a message."""
    if not got:
        return ""
    return ", not one with a point" if got == "`float`" else f", not {type_in_words(got)}"


def type_in_words(name: str, where: str = "") -> str:
    """A type as msgspec calls it, of the setting `where`."""
    plain = name.strip("`").removesuffix(" | null")
    if where.endswith("_s") and plain == "float":
        return "a number of seconds"
    return _KINDS.get(plain, plain)


def _unknown(name: str, where: str) -> str:
    table = plain_type(_type_at(where))
    for other, kind in (("limits", Limits), ("quotas", Quotas)):
        if name in kind.__struct_fields__ and table in {Limits, Quotas} and table is not kind:
            return f"unknown setting `{name}`: it belongs under {other}"
    known = table.__struct_fields__ if isinstance(table, type) and issubclass(table, Table) else ()
    return f"unknown setting `{name}`{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that may be meant, as the end of a message."""
    found = get_close_matches(name, list(known), 1)
    return f"; did you mean `{found[0]}`?" if found else ""


def _type_at(where: str) -> object:
    kind: object = Settings
    for step in re.findall(r"\w+", where.replace("[...]", "[0]")):
        kind = step_type(kind, step, where)
    return kind


def expected_in_words(where: str) -> str:
    """What a setting holds, in words; empty where its type says it all."""
    try:
        kind = _type_at(where)
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
    """The type of a setting below another one."""
    kind, known = plain_type(kind), ""
    if isinstance(kind, type) and issubclass(kind, Table):
        found = {field.name: field.type for field in msgspec.structs.fields(kind)}
        if step in found:
            return found[step]
        known = nearest(step, found)
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{variable}: there is no setting of that name ('{step}' is unknown{known})")


def plain_type(kind: object) -> object:
    """A type without its Annotated and its `| None`."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not tuple and get_origin(kind) is not Literal and len(members) == 1:
        return plain_type(members[0])
    return kind
