"""The table of what operators type and what they are told: each test of this directory adds its rows."""

import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.support.operators import Shows

_NAME = "operators"


@pytest.fixture
def shows(record_property: Callable[[str, object], None]) -> Shows:
    def add(kind: int, given: str, message: str) -> None:
        record_property(_NAME, [kind, given, message])

    return add


def _rows(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[int, str, str]]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, row in getattr(report, "user_properties", ()):
                if name == _NAME and getattr(report, "when", "") == "call":
                    yield (int(row[0]), str(row[1]), str(row[2]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table at 80 columns, if only this directory is tested."""
    if all("operators" in str(argument) for argument in terminalreporter.config.args):
        for kind, given, message in sorted(set(_rows(terminalreporter))):
            terminalreporter.write_line(textwrap.shorten(f"{kind:2}  {given}", 80, placeholder=" ..."))
            terminalreporter.write_line(textwrap.fill(message, 80, initial_indent="    ", subsequent_indent="    "))
