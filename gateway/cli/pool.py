"""`imagegate pool`."""

import time

import typer

from gateway.cli.admin_client import DEFAULT_URL, AdminKeyOption, Document, JsonOption, UrlOption, ask, rows
from gateway.cli.output import print_json, print_table

app = typer.Typer(help="The organisation's upstream keys.", no_args_is_help=True)


@app.callback()
def _pool() -> None:
    """A group with one command so far: the callback keeps its name on the command line."""


@app.command("list")
def list_(url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False) -> None:
    """List every upstream key with its state and the reason for it."""
    answer = ask(url, admin_key, "GET", "/pool")
    if json:
        print_json(answer)
        return
    columns = ("UPSTREAM", "ACCOUNT", "KEY", "STATE", "WHY", "BACK IN")
    print_table(columns, [_row(key) for key in rows(answer)], empty="There are no upstream keys.")


def _row(key: Document) -> tuple[str, ...]:
    until = key.get("until")
    wait = f"{max(0, until - int(time.time()))} s" if isinstance(until, int) else ""
    model = f" ({key['model']})" if key.get("model") else ""
    state, why = str(key.get("state")), str(key.get("fault") or "") + model
    return str(key.get("upstream")), str(key.get("account")), str(key.get("key")), state, why, wait
