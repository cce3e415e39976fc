"""What a command prints: tables for people at 80 columns, JSON for programs, one clear line when it fails."""

import json
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit code 1."""
    print(f"imagegate: {message}", file=sys.stderr)
    raise typer.Exit(1)


def print_json(answer: object) -> None:
    print(json.dumps(answer, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    empty: str,
    numbers: int = 0,
    total: Sequence[str] = (),
) -> None:
    """`numbers` says how many columns at the end hold some: these are never broken. `total` is a last row."""
    if not rows:
        print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[: len(columns) - numbers]:
        table.add_column(column)
    for column in columns[len(columns) - numbers :]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if total:
        table.add_row(*total, style="bold")
    Console(highlight=False).print(table)


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
