"""Lines of CSV (RFC 4180) that a spreadsheet does not evaluate."""

import re
from collections.abc import Iterable
from typing import Final

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - meant so
"""Characters at which a spreadsheet evaluates a cell."""
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_QUOTED: Final = re.compile(r'[",\r\n]')


def csv_line(cells: Iterable[object]) -> str:
    """Renders one line with its CR LF. None is an empty cell."""
    return ",".join("" if cell is None else _cell(str(cell)) for cell in cells) + "\r\n"


def _cell(text: str) -> str:
    """Escapes a formula with an apostrophe; replaces control characters, which a terminal would obey."""
    text = "".join(one if one.isprintable() or one in "\t\r\n" else "?" for one in text)
    if text.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
