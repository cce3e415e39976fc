import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from typer._click.exceptions import ClickException, MissingParameter, NoArgsIsHelpError

from gateway.cli import app
from tests.docs.files import DOCUMENTS, code_lines, code_spans, read

LINE = re.compile(r"(?:^(?:\$ )?(?:[A-Z0-9_]+=\S* )*(?:\S*/)?|(?:--|&&|\||;|\bexec [\w-]+) )imagegate(?: +(.*))?$")
ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}
VALUE = re.compile(r"[A-Z][A-Z_]*")
"""What stands for a value, as DAY."""
PLACEHOLDERS = re.compile(r"\[.*|.*\](\.\.\.)?|\.\.\.|…|COMMAND")


def commands_of(text: str) -> Iterator[tuple[str, bool]]:
    """What stands behind `imagegate`; and whether it is a whole line, to be typed as it stands."""
    for line in code_lines(text):
        if found := LINE.search(line):
            yield found[1] or "", True
    for span in code_spans(text):
        if span == "imagegate" or span.startswith("imagegate "):
            yield span.removeprefix("imagegate"), False


def words_of(command: str) -> list[str]:
    """The words that the command itself gets, without what only the shell or the reader understands."""
    words = shlex.split(command, comments=True)
    end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
    return [word for word in words[:end] if not PLACEHOLDERS.fullmatch(word)]


@functools.cache
def program() -> Any:
    """The command line, which takes 20 ms to build."""
    return typer.main.get_command(app)


def problem_of(words: list[str], *, is_whole: bool) -> str | None:
    """What the command line itself says of a command, which is parsed and not run."""
    name, command, parent = "imagegate", program(), None
    try:
        while True:
            context = command.make_context(name, list(words), parent=parent)
            rest = [*context._protected_args, *context.args]
            if not rest:
                return None
            name, command, words = command.resolve_command(context, rest)
            parent = context
    except (typer.Exit, NoArgsIsHelpError):
        return None
    except typer.BadParameter as error:
        is_pattern = isinstance(error, MissingParameter) or any(VALUE.fullmatch(word) for word in words)
        return None if is_pattern and not is_whole else error.format_message()
    except ClickException as error:
        return error.format_message()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_that_is_shown_exists_with_its_options(document: Path) -> None:
    found = (
        (command, problem_of(words_of(command), is_whole=is_whole)) for command, is_whole in commands_of(read(document))
    )
    assert [] == [f"imagegate {command}: {problem}" for command, problem in found if problem]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("tenant create acme --images-per-minute 60  # a limit", None),
        ("usage export --from 2026-07-01 > july.jsonl", None),
        ("usage --by tenant,model", None),
        ("tenant create --help", None),
        ("[OPTIONS] COMMAND [ARGS]...", None),
        ("tenants list", "No such command"),
        ("tenant make acme", "No such command"),
        ("tenant create acme --images 60", "No such option"),
        ("tenant create", "Missing argument"),
        ("tenant list acme", "unexpected extra argument"),
        ("usage --format xml", "Invalid value"),
        ("serve --port http", "Invalid value"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, problem: str | None) -> None:
    found = problem_of(words_of(command), is_whole=True)
    assert (problem or "") in (found or "")
    assert bool(problem) == bool(found)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("tenant create", None),
        ("usage --from DAY --to DAY", None),
        ("usage --from yesterday", "expected a day"),
        ("usage --until DAY", "No such option"),
        ("tenants", "No such command"),
    ],
)
def test_what_is_only_named_may_lack_its_values(command: str, problem: str | None) -> None:
    found = problem_of(words_of(command), is_whole=False)
    assert (problem or "") in (found or "")
    assert bool(problem) == bool(found)


def test_commands_are_found_in_lines_and_in_prose() -> None:
    text = (
        "Say `imagegate pool\nlist`, not `imagegate.toml`.\n\n    export X=1\n    X=1 imagegate check  # why\n\n"
        "```sh\n$ imagegate serve \\\n  --port 1\nkubectl exec pod -- imagegate audit\n"
        "systemctl stop imagegate.service\n```\n"
    )
    assert [
        ("serve    --port 1", True),
        ("audit", True),
        ("check  # why", True),
        (" pool list", False),
    ] == list(commands_of(text))
