"""Finds the line of each setting in TOML, which `tomllib` does not report."""

import re
from bisect import bisect
from typing import Final

_SPACE: Final = re.compile(r"[ \t]*")
_BETWEEN: Final = re.compile(r"(?:\s|#[^\n]*)*")
_KEY: Final = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_TEXT: Final = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_PLAIN: Final = re.compile(r"[^,\]}#\n]+")
_LAST_STEP: Final = re.compile(r"(^|\.)[^.\[\]]*$|\[\d+\]$")


class Lines:
    """Lines by the path of a setting, as `upstreams[0].accounts[1].name`."""

    def __init__(self, text: str) -> None:
        self.last = 1
        """Line of the last setting or table found."""
        self._text, self._at = text, 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[str, int] = {}

    def find(self, path: str) -> int:
        """Returns the line of a setting, or of the closest table around it; 0 if the text has none."""
        while path and path not in self._lines:
            path = _LAST_STEP.sub("", path)
        return self._lines.get(path, 0)

    def _note(self, path: str, at: int | None = None) -> None:
        self.last = 1 + bisect(self._ends, (self._at if at is None else at) - 1)
        self._lines.setdefault(path, self.last)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Returns what it skips. Raises: ValueError."""
        match = pattern.match(self._text, self._at)
        if not match:
            raise ValueError
        self._at = match.end()
        return match[0]


class TomlLines(Lines):
    """Lines of a TOML file. Stops at the first syntax error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[str, int] = {}
        """Items so far of each array of tables."""
        try:
            self._read_document()
        except ValueError:
            return

    def _read_document(self) -> None:
        table = ""
        while True:
            self._skip(_BETWEEN)
            if self._at == len(self._text):
                return
            if self._text[self._at] == "[":
                table = self._read_header()
            else:
                self._read_setting(table)

    def _read_header(self) -> str:
        """Returns the path of the table."""
        is_item = self._text.startswith("[[", self._at)
        self._at += 1 + is_item
        path, steps = "", self._read_key()
        for number, step in enumerate(steps, 1):
            path = f"{path}.{step}".lstrip(".")
            self._note(path)
            if is_item and number == len(steps):
                self._sizes[path] = self._sizes.get(path, 0) + 1
            if path in self._sizes:
                path += f"[{self._sizes[path] - 1}]"
        self._note(path)
        self._expect("]" * (1 + is_item))
        return path

    def _read_setting(self, table: str) -> None:
        start, path = self._at, table
        for step in self._read_key():
            path = f"{path}.{step}".lstrip(".")
            self._note(path, start)
        self._skip(_SPACE)
        self._expect("=")
        self._read_value(path)

    def _read_value(self, path: str) -> None:
        self._skip(_BETWEEN)
        if self._text.startswith("[", self._at):
            self._read_items(path, "]")
        elif self._text.startswith("{", self._at):
            self._read_items(path, "}")
        else:
            self._skip(_TEXT if self._text.startswith(('"', "'"), self._at) else _PLAIN)

    def _read_items(self, path: str, end: str) -> None:
        """Reads the items of an array, or the settings of an inline table."""
        self._at += 1
        number = 0
        while True:
            self._skip(_BETWEEN)
            if self._text.startswith(end, self._at):
                self._at += 1
                return
            if end == "]":
                self._note(f"{path}[{number}]")
                self._read_value(f"{path}[{number}]")
            else:
                self._read_setting(path)
            number += 1
            self._skip(_BETWEEN)
            if not self._text.startswith(end, self._at):
                self._expect(",")

    def _read_key(self) -> list[str]:
        steps, has_more = [], True
        while has_more:
            match = _KEY.match(self._text, self._at)
            if not match:
                raise ValueError
            self._at = match.end()
            steps.append(match[1].strip("\"'"))
            has_more = bool(match[2])
        return steps

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise ValueError
        self._at += len(text)
