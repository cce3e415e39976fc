"""Log events with their level and fields, found in the code; logs.toml has their descriptions."""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from docs.generate.pages import PageError, code, codes, prose, table

GATEWAY: Final = Path(__file__).parents[2] / "gateway"
MEANINGS: Final = Path(__file__).with_name("logs.toml")
_LOGGER: Final = "_LOG"
_LEVELS: Final = {"exception": "error"}
_LINES: Final = GATEWAY / "api" / "request_log.py"
_EVERY_LINE: Final = ("timestamp", "level", "event", "request_id", "trace_id")
_FIELD: Final = re.compile(r"[a-z][a-z_]*")


@dataclass(frozen=True, slots=True)
class Event:
    """One logger call."""

    name: str
    level: str
    fields: tuple[str, ...]
    where: str


def blocks(explained: Path = MEANINGS) -> dict[str, str]:
    meanings = tomllib.loads(explained.read_text("utf-8"))
    found = list(events())
    _compare("events", meanings["events"], {event.name for event in found})
    _compare("fields", meanings["fields"], {*_EVERY_LINE, *line_fields()})
    rows = [(code(name), prose(text)) for name, text in meanings["fields"].items()]
    return {
        "log-fields": table(("field", "meaning"), rows),
        "log-events": table(("event", "level", "fields", "meaning and action"), _rows(found, meanings["events"])),
    }


def _compare(what: str, said: Iterable[str], found: Iterable[str]) -> None:
    if missing := sorted(set(found) - set(said)):
        raise PageError(f"{MEANINGS.name} [{what}] does not explain {', '.join(missing)}")
    if strange := sorted(set(said) - set(found)):
        raise PageError(f"{MEANINGS.name} [{what}] explains {', '.join(strange)}, which the code does not log")


def _rows(found: list[Event], meanings: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for name in sorted(meanings):
        own = [event for event in found if event.name == name]
        fields = dict.fromkeys(field for event in own for field in event.fields)
        yield code(name), " or ".join(dict.fromkeys(event.level for event in own)), codes(fields), prose(meanings[name])


def line_fields() -> set[str]:
    """Returns the fields of the line: every key of gateway/api/request_log.py."""
    tree = list(ast.walk(ast.parse(_LINES.read_text("utf-8"))))
    keys = [key for node in tree if isinstance(node, ast.Dict) for key in node.keys]
    keys += [node.slice for node in tree if isinstance(node, ast.Subscript)]
    names = (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return {name for name in names if _FIELD.fullmatch(name)}


def events(package: Path = GATEWAY) -> Iterator[Event]:
    """Yields every event that the code logs.

    Raises: PageError for a call whose event is not a literal.
    """
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _is_log(node.func):
                yield from _read(node, f"{path.relative_to(package.parent)}:{node.lineno}")


def _is_log(function: ast.expr) -> bool:
    """Matches `_LOG.warning`, or a logger method bound to the name `log`."""
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == _LOGGER
    return isinstance(function, ast.Name) and function.id == "log"


def _read(call: ast.Call, where: str) -> Iterator[Event]:
    level = call.func.attr if isinstance(call.func, ast.Attribute) else "differs"
    names = _texts(call.args[0]) if call.args else []
    if not names:
        raise PageError(f"{where}: the event must be a string literal")
    fields = tuple(keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg != "exc_info")
    for name in names:
        yield Event(name, _LEVELS.get(level, level), fields, where)


def _texts(node: ast.expr) -> list[str]:
    """Returns a literal, or both branches of a conditional."""
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
