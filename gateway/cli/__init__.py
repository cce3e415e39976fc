"""The command line: `imagegate COMMAND`."""

from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import audit, demo, keys, pool, serve, simulator, tenants, usage

app = typer.Typer(
    name="imagegate",
    help="An OpenAI-compatible gateway for image generation on a shared pool of MiniMax and 302.AI accounts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("check")(serve.check)
app.command("simulator")(simulator.simulator)
app.command("audit")(audit.audit)
app.add_typer(tenants.app, name="tenant")
app.add_typer(keys.app, name="key")
app.add_typer(pool.app, name="pool")
app.add_typer(usage.app, name="usage")


def main() -> None:
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of every command."""
    del version
