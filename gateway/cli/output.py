"""Output of the commands: tables at 80 columns, JSON, progress, and one-line errors.

rich is imported only if it prints something.
"""

import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn, TextIO

import typer

_SOLID: Final = 12
"""Columns up to this width, such as days and ids, are never wrapped."""
_NARROW: Final = 8
"""Minimum width of other columns."""
_PROGRESS_S: Final = 5.0
"""Interval of progress lines, without a terminal for a bar."""

ReportProgress = Callable[[int, int], None]
"""A callback with the number of finished items and the total."""
SOCKS: Final = (
    "the environment names a SOCKS proxy, which is not supported. Name an HTTP proxy in HTTPS_PROXY and HTTP_PROXY, "
    "and unset ALL_PROXY"
)


def fail(message: str) -> NoReturn:
    """Writes the message to standard error; exit code 1."""
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """Prints a message with its line breaks. Pass a server's text through `printable` first."""
    print("imagegate: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)


def print_json(answer: object, file: TextIO | None = None, separators: tuple[str, str] | None = None) -> None:
    """Prints one line of JSON. Escapes terminal control characters and lone surrogates."""
    text = json.dumps(answer, ensure_ascii=False, separators=separators)
    if not text.isprintable():
        text = "".join(item if item.isprintable() else json.dumps(item)[1:-1] for item in text)
    print(text, file=file)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, numbers: int = 0, total: Sequence[str] = ()
) -> None:
    """Prints a table. The last `numbers` columns are numeric; `total` is the last row.

    Long text wraps on a terminal. Elsewhere the table is as wide as its content.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print(empty)
        return
    lines = [[printable(str(cell)) for cell in row] for row in (*rows, *((total,) if total else ()))]
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


def print_fields(*fields: tuple[str, object]) -> None:
    """Prints names and values that are not None, one per line, wrapped at the terminal's width."""
    shown = [(name, str(value)) for name, value in fields if value is not None]
    label = max(len(name) for name, _ in shown) + 2
    width = max(label + 20, terminal_width())
    for name, value in shown:
        text = textwrap.fill(printable(value), width, initial_indent=f"{name:<{label}}", subsequent_indent=" " * label)
        print(text or name)


def print_text(text: str, *, indent: int = 0) -> None:
    """Prints a paragraph, wrapped at the terminal's width."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    Console(highlight=False).print(Padding(Text(printable(text)), (0, 0, 0, indent), expand=False))


def terminal_width() -> int:
    from rich.console import Console

    return Console().width


@contextmanager
def progressing(act: str, things: str, *, prints: bool = False) -> Iterator[ReportProgress]:
    """Shows progress on standard error: a bar on a terminal, else a line at intervals.

    No bar if the command `prints` to the same terminal meanwhile.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield _progress_lines(act, things)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Otherwise rich would redirect other output to standard error.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(act, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


def _progress_lines(act: str, things: str) -> ReportProgress:
    reported_s = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s >= _PROGRESS_S:
            reported_s = time.monotonic()
            print(f"{act}: {done} of {max(done, total)} {things}", file=sys.stderr)

    return report


def printable(text: str) -> str:
    """Replaces terminal control characters in text from outside."""
    return "".join(character if character.isprintable() else "?" for character in text)


def minute(moment: object) -> str:
    """Formats Unix seconds as a UTC minute."""
    return day(moment, "%Y-%m-%d %H:%M UTC")


def day(moment: object, form: str = "%Y-%m-%d") -> str:
    """Formats Unix seconds as a UTC day."""
    if not isinstance(moment, int):
        return "never"
    try:
        return datetime.fromtimestamp(moment, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return str(moment)
