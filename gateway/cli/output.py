"""What a command prints: tables for people at 80 columns, JSON for programs, one clear line when it fails."""

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit code 1."""
    print(f"imagegate: {message}", file=sys.stderr)
    raise typer.Exit(1)


def print_json(answer: object) -> None:
    print(json.dumps(answer, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    if not rows:
        print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console = Console(highlight=False)
    console.print(table)


def _printable(text: str) -> str:
    """Text from outside without the characters that steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
