"""Collects the mistakes of a configuration, and locates each in its file or in the environment."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.config.toml_lines import TomlLines
from gateway.config.upstreams import Problem, SettingsError

ENV_PREFIX: Final = "IMAGEGATE_"
_STEP: Final = re.compile(r"\.?(\w+)|\[(\d+)\]")


class Problems:
    """The mistakes found so far. Invalid parts are left out of the settings, so that the rest can be checked too."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.incomplete: set[str] = set()
        """Paths of what was left out, and of lists that lost an item: what refers to them cannot be judged."""
        self.kept: dict[str, list[int]] = {}
        """Path of a list -> the numbers that its remaining items have in the file."""
        self.is_partial = False
        """True if parts of the file could not be read: nothing is missing for certain."""

    def add(self, path: str, reason: str, at: str = "") -> None:
        """Adds a mistake of the setting at `path`; `at` is its place in the file if that is another."""
        self.found.append(Problem(f"{path}: {reason}" if path else reason, at or path))

    @contextmanager
    def collecting(self, where: str = "") -> Iterator[None]:
        """Collects the mistakes of settings without the invalid parts, where items of lists have other numbers.

        `where` is the place of those that do not name theirs.
        """
        try:
            yield
        except SettingsError as error:
            for text, at in error.problems:
                path = self._original(at or where)
                if path not in (known for _, known in self.found):
                    self.found.append(Problem(path + text.removeprefix(at) if at else text, path))

    def is_known_to_lack(self, *lists: str) -> bool:
        """Returns True if it is a mistake that something is not in these lists or tables."""
        return not (self.is_partial or self.incomplete.intersection(map(self._original, lists)))

    def refuse(self, environ: Mapping[str, str], source: str) -> None:
        """Raises: SettingsError, if there are any."""
        if self.found:
            raise locate(SettingsError(*self.found), environ, source)

    def _original(self, path: str) -> str:
        made = ""
        for name, number in _STEP.findall(path):
            if name:
                made = f"{made}.{name}".lstrip(".")
            else:
                kept = self.kept.get(made)
                made += f"[{kept[int(number)] if kept else number}]"
        return made


def locate(error: SettingsError, environ: Mapping[str, str], source: str) -> SettingsError:
    """Returns the error with the place of each mistake: its variable, or the file `source` and the line.

    Those of the file are first, in its order.
    """
    try:
        lines = TomlLines(Path(source).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        lines = TomlLines("")
    placed: list[tuple[int, int, str]] = []
    for text, at in error.problems:
        if variable := _variable(at, environ):
            name, is_whole = variable
            reason = text.removeprefix(f"{at}: ") if is_whole else text
            placed.append((2, 0, reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"))
        elif line := _line(at, lines):
            placed.append((0, line, f"{source}:{line}: {text}"))
        else:
            placed.append((1, 0, f"{source}: {text}" if source else text))
    placed.sort(key=lambda one: one[:2])
    return SettingsError(*dict.fromkeys(text for _, _, text in placed))


def _line(at: str, lines: TomlLines) -> int:
    return int(at.removeprefix("line ")) if at.startswith("line ") else lines.find(at)


def _variable(at: str, environ: Mapping[str, str]) -> tuple[str, bool] | None:
    """Returns the variable that sets the setting, the source of its secret, or a table around it.

    With True if it sets the setting itself.
    """
    if at.startswith(ENV_PREFIX):
        return at, False
    steps = re.findall(r"\w+", at)
    for source in ("ENV", "FILE"):
        if environ.get(variable := ENV_PREFIX + "__".join((*steps, source)).upper()):
            return variable, False
    for depth in range(len(steps), 0, -1):
        variable = ENV_PREFIX + "__".join(steps[:depth]).upper()
        if environ.get(variable):
            return variable, depth == len(steps)
    return None
