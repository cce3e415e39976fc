"""Lines of the values of a JSON file, for messages."""

import json
import re
from typing import Final

from gateway.config.toml_lines import Lines

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_PLAIN: Final = re.compile(r"[^ \t\r\n,\]}]+")


class JsonLines(Lines):
    """Lines of a valid JSON text. Raises: RecursionError if it is nested too deeply."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[int, str]] = []
        """Line and path of every key that its object has already; json.loads would take the last one."""
        self._read("")

    def _read(self, path: str) -> None:
        self._skip(_SPACE)
        match self._text[self._at]:
            case "{":
                self._read_items(path, "}")
            case "[":
                self._read_items(path, "]")
            case '"':
                self._skip(_TEXT)
            case _:
                self._skip(_PLAIN)

    def _read_items(self, path: str, end: str) -> None:
        keys: set[str] = set()
        number = 0
        while self._text[self._at] != end:
            self._at += 1  # the opening bracket, or a comma
            self._skip(_SPACE)
            if self._text[self._at] == end:
                break
            if end == "}":
                item = self._read_key(path, keys)
            else:
                item = f"{path}[{number}]"
                self._note(item)
            self._read(item)
            self._skip(_SPACE)
            number += 1
        self._at += 1

    def _read_key(self, path: str, keys: set[str]) -> str:
        start, key = self._at, json.loads(self._skip(_TEXT))
        item = f"{path}.{key}".lstrip(".")
        self._note(item, start)
        if key in keys:
            self.repeated.append((self.last, item))
        keys.add(key)
        self._skip(_SPACE)
        self._at += 1  # the colon
        return item
