"""How far a long command is, on standard error, so that standard output holds the result alone."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PAUSE_S: Final = 5.0
"""Between lines, where there is no terminal for a bar."""

Tell = Callable[[int, int], None]
"""Done, and in all."""


@contextmanager
def progressing(act: str, things: str, *, prints: bool = False) -> Iterator[Tell]:
    """A bar on a terminal, else a line now and then; no bar where the act `prints` to the same terminal meanwhile."""
    if sys.stderr.isatty() and not (prints and sys.stdout.isatty()):
        with _bar(act) as tell:
            yield tell
    else:
        yield _lines(act, things)


@contextmanager
def _bar(act: str) -> Iterator[Tell]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would send what is printed meanwhile to standard error too.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(act, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


def _lines(act: str, things: str) -> Tell:
    told_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _PAUSE_S:
            told_at = time.monotonic()
            print(f"{act}: {done} of {max(done, total)} {things}", file=sys.stderr)

    return tell
