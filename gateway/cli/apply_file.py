"""Reads a file of tenants and keys: TOML, or JSON if its name ends in .json. Reports every mistake at once."""

import json
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.admin.schemas import (
    AboutChange,
    AlertsChange,
    KeepHours,
    LimitsChange,
    Name,
    QuotasChange,
    Schema,
    StorageBytes,
    TagsChange,
    Text,
    Weight,
    describe_mistake,
)
from gateway.cli.json_lines import JsonLines
from gateway.config.toml_lines import Lines, TomlLines

_MISTAKES_MAX: Final = 100
_BYTES_MAX: Final = 10_000_000
_NO_VALUE: Final = {"none": ("keep_hours", "storage_bytes", "expires_at"), "all": ("models",)}
"""Words for null, which TOML does not have."""
_INDEX: Final = re.compile(r"\[\d+\]\Z")
_STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class KeyEntry(Schema):
    """A key, which its label identifies within its tenant."""

    label: Annotated[str, Meta(min_length=1, max_length=100)]
    role: Literal["", "lead"] | UnsetType = UNSET
    tags: TagsChange | UnsetType = UNSET
    expires_at: int | UnsetType | None = UNSET
    limits: LimitsChange | UnsetType = UNSET
    quotas: QuotasChange | UnsetType = UNSET


class TenantEntry(AboutChange, kw_only=True):
    """A tenant. Fields that are absent stay unchanged."""

    name: Name
    limits: LimitsChange | UnsetType = UNSET
    quotas: QuotasChange | UnsetType = UNSET
    models: list[Text] | UnsetType | None = UNSET
    keep_hours: KeepHours | UnsetType | None = UNSET
    storage_bytes: StorageBytes | UnsetType | None = UNSET
    weight: Weight | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    keys: list[KeyEntry] = msgspec.field(default_factory=list)


class _File(Schema):
    tenants: list[TenantEntry]


_SHAPES: Final[Mapping[str, type[Schema]]] = {
    "": _File,
    "tenants": TenantEntry,
    "keys": KeyEntry,
    "limits": LimitsChange,
    "quotas": QuotasChange,
    "alerts": AlertsChange,
}


class FileError(Exception):
    """Each mistake with line and path."""


class ApplyFile:
    """The tenants of a file, and the lines they stand in."""

    def __init__(self, path: str) -> None:
        """Raises: FileError."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(_BYTES_MAX + 1)
            if len(content) > _BYTES_MAX:
                raise FileError(f"{path} has more than {_BYTES_MAX} bytes")
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FileError(f"{path} is not UTF-8") from error
        self._path, self._is_json = path, path.endswith(".json")
        self._lines: Lines = Lines("")
        self._mistakes: list[tuple[str, str]] = []
        try:
            self.tenants = self._read(self._parse(text))
        except RecursionError:
            raise FileError(f"{path}: its tables or lists are nested too deeply; remove the inner ones") from None
        self._mistakes += self._repeated()
        if mistakes := sorted(self._mistakes, key=lambda mistake: self._lines.find(mistake[0])):
            raise FileError("\n".join(self.place(*mistake) for mistake in mistakes[:_MISTAKES_MAX]))

    def place(self, path: str, problem: str) -> str:
        """Prefixes a problem with file, line and path."""
        line = self._lines.find(path)
        return f"{self._path}{f':{line}' if line else ''}: {f'{path}: ' if path else ''}{problem}"

    def _parse(self, text: str) -> object:
        kind = "JSON" if self._is_json else "TOML"
        try:
            document = json.loads(text) if self._is_json else tomllib.loads(text, parse_float=str)
            self._lines = lines = JsonLines(text) if self._is_json else TomlLines(text)
        except ValueError as error:
            raise FileError(f"{self._path}: this is not {kind}: {error}") from error
        except RecursionError as error:
            raise FileError(f"{self._path}: its {kind} is nested too deeply") from error
        if isinstance(lines, JsonLines) and lines.repeated:
            places = [f"{self._path}:{line}: {path}: this key is there twice" for line, path in lines.repeated]
            raise FileError("\n".join(places[:_MISTAKES_MAX]))
        return _normalized(document)

    def _read(self, document: object) -> list[TenantEntry]:
        """Takes what is wrong out of the document and reads the rest, until nothing is wrong."""
        while len(self._mistakes) <= _MISTAKES_MAX:
            try:
                return msgspec.convert(document, _File).tenants
            except msgspec.ValidationError as error:
                place, problem, name = describe_mistake(str(error))
                path = f"{place}.{name}".lstrip(".") if name else place
                if "unknown" in problem and (shape := _SHAPES.get(_INDEX.sub("", place.rpartition(".")[2]))):
                    problem = f"unknown field; known: {', '.join(sorted(shape.__struct_fields__))}"
                self._mistakes.append((path, problem))
                if not _take_out(document, path, is_missing="missing" in problem, number=len(self._mistakes)):
                    break
        return []

    def _repeated(self) -> Iterator[tuple[str, str]]:
        names = Counter(tenant.name for tenant in self.tenants)
        for at, tenant in enumerate(self.tenants):
            if names[tenant.name] > 1:
                yield f"tenants[{at}].name", f"'{tenant.name}' is in the file {names[tenant.name]} times"
            labels = Counter(key.label for key in tenant.keys)
            for number, key in enumerate(tenant.keys):
                path = f"tenants[{at}].keys[{number}]"
                if labels[key.label] > 1:
                    yield f"{path}.label", f"'{key.label}' names {labels[key.label]} keys of '{tenant.name}'"
                if isinstance(key.expires_at, int) and key.expires_at > 253_402_300_799:
                    yield f"{path}.expires_at", "expected a time up to the year 9999"


def is_expired(key: KeyEntry) -> bool:
    return isinstance(key.expires_at, int) and key.expires_at <= time.time()


def _normalized(value: object, name: str = "") -> object:
    """Replaces what TOML writes otherwise than the admin API: null, dollars as numbers, and times."""
    if isinstance(value, dict):
        is_limits = name in {"limits", "quotas"}
        fields = {key: _normalized(item, key) for key, item in value.items()}
        return {key: None if is_limits and item == "none" else item for key, item in fields.items()}
    if isinstance(value, list):
        return [_normalized(item) for item in value]
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    if isinstance(value, int | float) and not isinstance(value, bool) and "usd" in name:
        return str(value)
    return None if any(value == word and name in names for word, names in _NO_VALUE.items()) else value


def _take_out(document: object, path: str, *, is_missing: bool, number: int) -> bool:
    """Removes what a path names, or supplies a text that is missing. Returns: False if the path leads nowhere."""
    steps: list[str | int] = [int(step[2]) if step[2] else step[1] for step in _STEP.finditer(path)]
    if steps and isinstance(steps[-1], int) and steps[-2:-1] not in (["tenants"], ["keys"]):
        steps.pop()  # an item would shift the others
    place, filler = document, f"missing-{number}"
    for step in steps[:-1]:
        if isinstance(place, list) and isinstance(step, int) and step < len(place):
            place = place[step]
        elif isinstance(place, dict):
            place = place.get(step)
    match place, steps[-1:]:
        case dict(), [str(last)] if is_missing or last in {
            "tenants",
            "name",
            "label",
        }:  # without it, it would be missing
            place[last] = [] if last == "tenants" else filler
        case dict(), [str(last)] if last in place:
            del place[last]
        case list(), [int(last)] if last < len(place):
            place[last] = {"name" if steps[-2] == "tenants" else "label": filler}
        case _:
            return False
    return True
