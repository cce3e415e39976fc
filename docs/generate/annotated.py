"""Setting descriptions from config/imagegate.toml: the comment after a setting, and the lines above it.

Continuation lines of a comment begin far to the right. Settings that are commented out count too. An empty line
ends the description above.
"""

import re
import tomllib
from typing import Final

_SETTING: Final = re.compile(r"([a-z][a-z0-9_]*) = (.+)")
_TABLE: Final = re.compile(r"\[\[?([a-z_.]+)\]\]?(?:\s+# (.+))?")
_FAR: Final = 20
"""Columns; a line that begins beyond them continues the comment of the line before."""


def read_meanings(text: str) -> dict[str, str]:
    """Returns the description of each setting or table by path, as "server.port"; empty if there is none."""
    reader = _Reader()
    for line in text.splitlines():
        reader.read(line)
    return {path: " ".join(parts).removeprefix("<br>") for path, parts in reader.found.items()}


class _Reader:
    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self._table = ""
        self._above: list[str] = []
        self._last: list[str] = []

    def read(self, line: str) -> None:
        bare = line.lstrip(" #")
        if line.startswith((" ", "#")) and len(line) - len(bare) > _FAR:
            self._last.append(bare)
        elif found := _TABLE.fullmatch(bare):
            self._table = found[1]
            self._enter(found[1], found[2] or "")
        elif found := _SETTING.fullmatch(bare):
            self._enter(f"{self._table}.{found[1]}", _comment(found[2]))
        elif bare:
            self._above.append(_as_line(bare))
        else:
            self._above = []

    def _enter(self, path: str, comment: str) -> None:
        """Records a setting at its first occurrence; later ones, e.g. a second upstream, are only examples."""
        parts = [*self._above, *([comment] if comment else [])]
        self._above, self._last = [], parts
        self.found.setdefault(path, parts)


def _comment(text: str) -> str:
    """Returns the comment after a value; the value may contain a `#`."""
    for found in re.finditer(r"\s+# ", text):
        try:
            tomllib.loads(f"value = {text[: found.start()]}")
        except tomllib.TOMLDecodeError:
            continue
        return text[found.end() :]
    return ""


def _as_line(text: str) -> str:
    """Returns a line above a setting, without the setting's name. A capital letter begins a new line of the page."""
    what = re.sub(r"^[a-z_]+: ", "", text)
    return f"<br>{what}" if what[0].isupper() else what
