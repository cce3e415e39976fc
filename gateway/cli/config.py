"""`imagegate config`."""

import json
from functools import partial
from typing import Annotated

import typer

from gateway.cli.client import AdminApi, Document, admin_command, rows
from gateway.cli.output import print_table

app = typer.Typer(help="Show the configuration of a running gateway.", no_args_is_help=True)


@admin_command(app, "show")
def show(
    api: AdminApi,
    setting: Annotated[str, typer.Option(metavar="PART", help="Show only settings that contain this.")] = "",
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only settings that differ from the default.")
    ] = False,
) -> None:
    """Show the settings in force, without secrets. Needs a key of role admin.

    A secret is shown as its source; a provider key also as the fingerprint that logs have. APPLIES: at a reload, or
    after a restart.
    """
    api.show(api.ask("GET", "configuration"), partial(_print, setting, is_changed=changed))


def _print(part: str, response: Document, *, is_changed: bool) -> None:
    lines = [
        (
            row.get("setting"),
            json.dumps(row.get("value"), ensure_ascii=False),
            row.get("source"),
            "restart" if row.get("needs_restart") else "reload",
        )
        for row in rows(response)
        if part in str(row.get("setting")) and not (is_changed and row.get("source") == "default")
    ]
    print_table(("SETTING", "VALUE", "FROM", "APPLIES"), lines, empty="No settings.")
