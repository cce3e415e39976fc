"""Lines of CSV (RFC 4180) that a spreadsheet does not evaluate."""

import re
from collections.abc import Iterable
from typing import Final

_FORMULA: Final = re.compile(r"(^|;\s*)(?=[=+\-@\t\r\n＝＋－＠])")  # noqa: RUF001 - meant so
"""Places at which a spreadsheet evaluates a cell: in many countries it also separates cells at semicolons."""
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_QUOTED: Final = re.compile(r'[",\r\n]')


def csv_line(cells: Iterable[object]) -> str:
    """Renders one line with its CR LF. None is an empty cell."""
    return ",".join("" if cell is None else _cell(str(cell)) for cell in cells) + "\r\n"


def _cell(text: str) -> str:
    """Escapes a formula with an apostrophe; replaces control characters, which a terminal would obey."""
    text = "".join(one if one.isprintable() or one in "\t\r\n" else "?" for one in text)
    if not _NUMBER.fullmatch(text):
        text = _FORMULA.sub(r"\1'", text)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
