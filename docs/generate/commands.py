"""Every command and option, from the command line itself."""

from collections.abc import Iterator
from typing import Any

import typer.main

from docs.generate.pages import PageError, code, prose, table
from gateway.cli import app

_PLACEHOLDERS = {
    "<str>": "TEXT",
    "<int range>": "N",
    "<float range>": "SECONDS",
    "<path>": "FILE",
    "<list[str]>": "TEXT",
}


def blocks() -> dict[str, str]:
    command: Any = typer.main.get_command(app)  # typer's own classes, which it does not export
    return {"commands": "\n\n".join(_render(command, command.context_class(command, info_name="imagegate")))}


def _render(command: Any, context: Any) -> Iterator[str]:
    if context.parent or not getattr(command, "commands", None):
        yield f"{'#' * len(context.command_path.split())} `{context.command_path}`"
    yield from _paragraphs(command)
    yield code(" ".join((context.command_path, *command.collect_usage_pieces(context))))
    rows = [_row(option, context) for option in command.get_params(context) if not _is_hidden(option)]
    if rows:
        yield table(("option", "what for"), rows)
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _render(inner, inner.context_class(inner, info_name=name, parent=context))


def _paragraphs(command: Any) -> Iterator[str]:
    if not command.help:
        raise PageError(f"the command {command.name} has no help text: write its docstring")
    for paragraph in command.help.split("\n\n"):
        yield prose(paragraph)


def _is_hidden(option: Any) -> bool:
    return option.hidden or "--help" in option.opts


def _row(option: Any, context: Any) -> tuple[str, str]:
    name, text = option.get_help_record(context)
    if not option.help:
        raise PageError(f"{context.command_path} {name} has no help text")
    for shown, placeholder in _PLACEHOLDERS.items():
        name = name.replace(shown, placeholder)
    return code(name), prose(text)
