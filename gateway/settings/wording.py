"""Saying what is wrong with a setting, and what is expected there, in words."""

import re
from types import UnionType
from typing import Annotated, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from gateway.settings.schema import SecretSource, Settings, SettingsError, Table

_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'


def explain(message: str) -> str:
    """Msgspec's message with the path first and, where it helps, what is expected there in words."""
    what, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    what = what.replace("Object contains unknown field", "unknown setting").replace("Object missing", "missing")
    expected = expected_in_words(where)
    if what.startswith("Expected `object") and what.endswith("got `str`") and expected == _SOURCE:
        what = f"never write the secret itself here; give {_SOURCE}"
    elif expected:
        what = f"{what.partition(', got')[0] if 'regex' in what else what}; expected {expected}"
    if "regex" in what:
        what = f"it is not {expected}"
    return f"{where}: {what}" if where else what


def expected_in_words(where: str) -> str:
    """What a setting holds, in words; empty where its type says it all."""
    kind: object = Settings
    try:
        for step in re.findall(r"\w+", where.replace("[...]", "[0]")):
            kind = step_type(kind, step, where)
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
    kind = plain_type(kind)
    if isinstance(kind, type) and issubclass(kind, Table):
        found = {field.name: field.type for field in msgspec.structs.fields(kind)}
        if step in found:
            return found[step]
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{variable}: there is no setting of that name ('{step}' is unknown)")


def plain_type(kind: object) -> object:
    """A type without its Annotated and its `| None`."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not tuple and get_origin(kind) is not Literal and len(members) == 1:
        return plain_type(members[0])
    return kind
