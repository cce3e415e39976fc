"""Tables of all settings: types and defaults from gateway/config, descriptions from the annotated file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Final, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta

from docs.generate.annotated import read_meanings
from docs.generate.pages import PageError, code, prose, sentence, table
from gateway.config import SecretSource, Settings, Table
from gateway.config.loading import ENV_PREFIX
from gateway.config.messages import expected_in_words, plain_type, type_in_words

ANNOTATED: Final = Path(__file__).parents[2] / "config" / "imagegate.toml"
_UNITS: Final = {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "_percent": "percent", "_days": "days"}
_TYPES: Final = {bool: "bool", int: "int", float: "float", str: "str"}


@dataclass
class Section:
    """One table of the configuration."""

    path: tuple[str, ...]
    kind: type[Table]
    lists: tuple[str, ...] = ()
    """Paths, its own or of outer tables, that may occur several times."""
    settings: list[msgspec.structs.FieldInfo] = field(default_factory=list)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def header(self) -> str:
        return f"[[{self.name}]]" if self.name in self.lists else f"[{self.name}]"

    @property
    def where(self) -> str:
        """The path as gateway/config writes it, with entry numbers."""
        steps = (f"{step}[0]" if self._is_list(depth) else step for depth, step in enumerate(self.path))
        return ".".join(steps)

    @property
    def variable(self) -> str:
        """The environment variable prefix of this table's settings."""
        steps = (f"{step}__0" if self._is_list(depth) else step for depth, step in enumerate(self.path))
        return ENV_PREFIX + "__".join(steps).upper() + "__"

    def _is_list(self, depth: int) -> bool:
        return ".".join(self.path[: depth + 1]) in self.lists


def blocks(annotated: Path = ANNOTATED) -> dict[str, str]:
    meanings = read_meanings(annotated.read_text("utf-8"))
    found = list(sections())
    known = {section.name for section in found}
    known |= {f"{section.name}.{setting.name}" for section in found for setting in section.settings}
    if strange := meanings.keys() - known:
        raise PageError(f"config/imagegate.toml: there are no settings {sorted(strange)}")
    return {"configuration": "\n\n".join(_render(section, meanings) for section in found)}


def sections(kind: type[Table] = Settings, around: Section | None = None) -> Iterator[Section]:
    """Yields every table, outer ones first. A table type that occurs again further down is a setting there."""
    own = around or Section((), kind)
    inner: list[Section] = []
    for setting in msgspec.structs.fields(kind):
        plain = plain_type(setting.type)
        item = get_args(plain)[0] if get_origin(plain) is tuple else plain
        path = (*own.path, setting.name)
        if isinstance(item, type) and issubclass(item, Table) and not _is_known(item, path):
            is_list = get_origin(plain) is tuple
            inner.append(Section(path, item, (*own.lists, ".".join(path)) if is_list else own.lists))
        else:
            own.settings.append(setting)
    if around:
        yield own
    for section in inner:
        yield from sections(section.kind, section)


def _is_known(kind: type[Table], path: tuple[str, ...]) -> bool:
    """Returns True for value types. A secret's source is a value; a key's limits are documented with its tenant's."""
    return kind is SecretSource or path[:2] == ("tenants", "keys") and len(path) > 2  # noqa: RUF021 - reads as it is meant


def _render(section: Section, meanings: dict[str, str]) -> str:
    said = meanings.get(section.name) or str(section.kind.__doc__).partition("\n")[0]
    lines = [f"## `{section.header}`", sentence(said)]
    paths = {f"{section.name}.{setting.name}": setting for setting in section.settings}
    if silent := [path for path in paths if not meanings.get(path)]:
        raise PageError(f"config/imagegate.toml says nothing of {', '.join(silent)}: write it behind the setting")
    if paths:
        ordered = sorted(paths, key=list(meanings).index)
        lines.append(f"From the environment: {code(section.variable + paths[ordered[0]].name.upper())}, and so on.")
        rows = (_row(section, paths[path], meanings[path]) for path in ordered)
        lines.append(table(("setting", "takes", "default", "what for"), rows))
    return "\n\n".join(lines)


def _row(section: Section, setting: msgspec.structs.FieldInfo, meaning: str) -> tuple[str, str, str, str]:
    accepted = takes(f"{section.where}.{setting.name}", setting.type)
    return code(setting.name), accepted, _default(setting), prose(meaning)


def takes(path: str, kind: object) -> str:
    """Describes the values that a setting accepts."""
    plain = plain_type(kind)
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        return f"a list{_at_least(kind)}: {takes(f'{path}[0]', item)}"
    if isinstance(plain, type) and issubclass(plain, Table) and plain is not SecretSource:
        return f"a table, as [`[tenants.{path.rpartition('.')[2]}]`](#tenants{path.rpartition('.')[2]})"
    expected = expected_in_words(path)
    if expected.startswith("{"):
        return " or ".join(map(code, expected.split(" or ")))
    if expected.startswith("one of "):
        return " or ".join(map(code, expected.removeprefix("one of ").split(", ")))
    if expected:
        return expected
    words = type_in_words(_TYPES[plain]) if isinstance(plain, type) and plain in _TYPES else str(plain)
    unit = next((unit for suffix, unit in _UNITS.items() if path.endswith(suffix)), "")
    return (unit or words) + _bounds(kind)


def _notes(kind: object) -> list[Meta]:
    """Returns the bounds of a type, ignoring None; those of a list's entries do not count."""
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return [note for member in members for note in getattr(member, "__metadata__", ()) if isinstance(note, Meta)]


def _at_least(kind: object) -> str:
    return " of at least one" if any(note.min_length for note in _notes(kind)) else ""


def _bounds(kind: object) -> str:
    for note in _notes(kind):
        if note.max_length is not None:
            return f" of {note.min_length or 0} to {note.max_length} characters"
        low = note.ge if note.ge is not None else note.gt
        if note.ge is not None and note.le is not None:
            return f", {note.ge} to {note.le}"
        words = ("at least " if note.ge is not None else "above ") + str(low)
        return f", {words}" + (f", at most {note.le}" if note.le is not None else "")
    return ""


def _default(setting: msgspec.structs.FieldInfo) -> str:
    if setting.required:
        return "required"
    value = setting.default if setting.default is not NODEFAULT else ()
    if value is None or isinstance(value, Table):
        return "none"
    return code(msgspec.json.encode(value).decode())
