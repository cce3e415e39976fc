"""Overrides settings from environment variables: `IMAGEGATE_SERVER__PORT=9090`."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final, get_origin

import msgspec

from gateway.config.messages import expected_in_words, plain_type, step_type, type_in_words
from gateway.config.schema import Settings
from gateway.config.types import SettingsError, Table

_USER: Final = re.compile(r"//[^/?#\s]*@")
"""A user and password in a URL."""
ENV_PREFIX: Final = "IMAGEGATE_"


def overlay(document: dict[str, object], environ: Mapping[str, str]) -> None:
    """Sets `IMAGEGATE_SERVER__PORT` in the document. List items are numbered: `IMAGEGATE_MODELS__0__ID`."""
    for variable in sorted(environ):
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if variable.startswith(ENV_PREFIX) and (len(path) > 1 or path[0] in Settings.__struct_fields__):
            _set(document, path, environ[variable], variable)


def _set(document: dict[str, object], path: list[str], text: str, variable: str) -> None:
    kind: object = Settings
    holder: object = document
    for depth, step in enumerate(path):
        kind = step_type(kind, step, variable)
        is_last = depth == len(path) - 1
        value: object = _parse(kind, text, variable) if is_last else None
        holder = _descend(holder, step, value, is_last=is_last, variable=variable)


def _descend(holder: object, step: str, value: object, *, is_last: bool, variable: str) -> object:
    if isinstance(holder, dict):
        if is_last:
            holder[step] = value
        return holder.setdefault(step, {})
    if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
        if is_last:
            holder[int(step)] = value
        return holder[int(step)]
    raise SettingsError(f"{variable}: the configuration file has no entry '{step}' to override")


def _parse(kind: object, text: str, variable: str) -> object:
    """Converts a variable's text to the setting's type. Tables and lists are TOML."""
    plain = plain_type(kind)
    try:
        if get_origin(plain) is tuple or (isinstance(plain, type) and issubclass(plain, Table)):
            return tomllib.loads(f"value = {text}")["value"]
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{variable}: expected a TOML list or table: {error}") from error
    except msgspec.ValidationError as error:
        setting = ".".join(variable.removeprefix(ENV_PREFIX).lower().split("__"))
        kind_name = str(error).partition(", got")[0].partition("Expected ")[2]
        expected = expected_in_words(setting) or type_in_words(kind_name, setting)
        shown = _USER.sub("//...@", text)
        raise SettingsError(f"{variable}: invalid value {shown!r}; expected {expected}") from error
