"""What a command prints: tables for people at 80 columns, JSON for programs, one clear line when it fails."""

import json
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn, TextIO

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_SOLID: Final = 12
"""What is as short, as days and ids are, is never broken."""
_NARROW: Final = 8
"""The least that is left to longer texts."""


def fail(message: str) -> NoReturn:
    """Writes the message to standard error; exit code 1."""
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """Several lines only where the message has them; pass a server's words through `printable` first."""
    print("imagegate: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)


def print_json(answer: object, file: TextIO | None = None, separators: tuple[str, str] | None = None) -> None:
    """One line of JSON; characters that steer a terminal are escaped in it, as are lone surrogates."""
    text = json.dumps(answer, ensure_ascii=False, separators=separators)
    if not text.isprintable():
        text = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
    print(text, file=file)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    empty: str,
    numbers: int = 0,
    total: Sequence[str] = (),
) -> None:
    """`numbers` says how many columns at the end hold some. `total` is a last row.

    Nothing is cut off: long texts go on below on a terminal, and the table is as wide as they are elsewhere.
    """
    if not rows:
        print(empty)
        return
    lines = [[printable(cell) for cell in row] for row in (*rows, *((total,) if total else ()))]
    longest = [max(map(cell_len, column)) for column in zip(columns, *lines, strict=True)]
    first_number = len(columns) - numbers
    least = [width if at >= first_number or width <= _SOLID else _NARROW for at, width in enumerate(longest)]
    console = Console(highlight=False)
    gap = 2 if not sys.stdout.isatty() or sum(longest) + 2 * len(columns) <= console.width else 1
    console.width = max(console.width, sum(least if sys.stdout.isatty() else longest) + gap * len(columns))
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for at, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if at >= first_number else "left"
        table.add_column(column, justify=justify, overflow="fold", min_width=least[at])
    for at, line in enumerate(lines):
        table.add_row(*map(Text, line), style="bold" if at == len(rows) else None)
    console.print(table)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values of one thing, one a line, broken where the terminal ends."""
    label = max(len(name) for name, _ in fields) + 2
    width = max(20, Console().width - label)
    for name, value in fields:
        first, *others = textwrap.wrap(printable(value), width) or [""]
        print(f"{name:<{label}}{first}".rstrip())
        for line in others:
            print(" " * label + line)


def print_text(text: str, *, indent: int = 0) -> None:
    """A line of text, broken where the terminal ends."""
    Console(highlight=False).print(Padding(Text(printable(text)), (0, 0, 0, indent), expand=False))


def printable(text: str) -> str:
    """Text from outside without the characters that steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def day(moment: object) -> str:
    """A moment in Unix seconds as a UTC day."""
    return _formatted(moment, "%Y-%m-%d")


def minute(moment: object) -> str:
    """A moment in Unix seconds as a UTC minute."""
    return _formatted(moment, "%Y-%m-%d %H:%M UTC")


def _formatted(moment: object, form: str) -> str:
    if not isinstance(moment, int):
        return "never"
    try:
        return datetime.fromtimestamp(moment, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return str(moment)
