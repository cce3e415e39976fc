"""The command line: `imagegate COMMAND`. A command imports what it needs when it runs, so that `--help` is fast."""

import errno
import os
import sys
from typing import Annotated, Final

import typer
import typer.core

from gateway import __version__
from gateway.cli import (
    apply,
    audit,
    batches,
    config,
    conformance,
    console,
    contexts,
    credit,
    keys,
    me,
    models,
    overview,
    pool,
    refusals,
    serving,
    tenants,
    usage,
    webhooks,
)
from gateway.cli.client import admin_command

_CONTEXT: Final = "--context"


class _Commands(typer.core.TyperGroup):
    """All commands. Accepts --context after a command too."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        ctx.meta["arguments"] = list(args)
        at = next((at for at, argument in enumerate(args) if argument.split("=")[0] == _CONTEXT), 0)
        if at and "--" not in args[:at]:
            count = 1 if "=" in args[at] else 2
            args = [*args[at : at + count], *args[:at], *args[at + count :]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="imagegate",
    help="An OpenAI-compatible gateway for image generation on a shared pool of MiniMax and 302.AI accounts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=_Commands,
    rich_markup_mode=None,  # rich would drop [brackets] in help texts as markup
)
app.command("demo", short_help="Run Redis, the gateway and, by default, the simulator.")(serving.demo)
app.command("serve")(serving.serve)
app.command("check", short_help="Validate the configuration, and try all that the gateway needs.")(serving.check)
app.command("simulator", short_help="Run a fake MiniMax and 302.AI server.")(serving.simulator)
app.command("conformance", short_help="Check a server for compatibility with OpenAI's image clients.")(
    conformance.conformance
)
admin_command(app, "apply", "Create and change tenants and keys from a file, after showing the plan.")(apply.apply)
admin_command(app, "audit", "Show changes of tenants and keys, newest first.")(audit.audit)
admin_command(app, "models", "List the configured models with their prices and upstreams.")(models.models)
admin_command(app, "overview", "Show spend, waiting requests, capacity, and what needs attention.")(overview.overview)
admin_command(app, "refusals", "List requests that were refused before anything was bought, newest first.")(
    refusals.refusals
)
admin_command(tenants.app, "credit")(credit.credit)
app.add_typer(tenants.app, name="tenant")
app.add_typer(keys.app, name="key")
app.add_typer(pool.app, name="pool")
app.add_typer(usage.app, name="usage")
app.add_typer(batches.app, name="batch")
app.add_typer(contexts.app, name="context")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(console.app, name="console")
app.add_typer(config.app, name="config")
app.add_typer(me.app, name="me")


_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Runs a command. A full disk behind standard output is one line on standard error; a closed pipe is silent."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _drop_output()
        print(f"imagegate: the output cannot be written ({error.strerror})", file=sys.stderr)
    else:
        return
    raise SystemExit(1)


def _drop_output() -> None:
    """Discards buffered output, on which the interpreter would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(_CONTEXT, metavar="NAME", help=f"Gateway to call; else {contexts.VARIABLE}. See context."),
    ] = None,
) -> None:
    """Holds the options of every command."""
    del version
    contexts.enter(context, name, context.meta["arguments"])
