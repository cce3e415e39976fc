"""`imagegate tenant`."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import typer

from gateway.cli.admin_client import DEFAULT_URL, AdminKeyOption, Document, JsonOption, UrlOption, ask, rows
from gateway.cli.output import print_json, print_table

app = typer.Typer(help="Tenants: who may use the gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model that the tenant may use; repeat it. None given: every model."),
]


@app.command("create")
def create(
    name: Name,
    model: Models = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Create a tenant."""
    answer = ask(url, admin_key, "POST", "/tenants", {"name": name, "models": model})
    _print(answer, json)


@app.command("list")
def list_(url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False) -> None:
    """List every tenant."""
    answer = ask(url, admin_key, "GET", "/tenants")
    if json:
        print_json(answer)
    else:
        print_table(_COLUMNS, [_row(tenant) for tenant in rows(answer)], empty="There are no tenants.")


@app.command("show")
def show(name: Name, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False) -> None:
    """Show one tenant."""
    _print(ask(url, admin_key, "GET", f"/tenants/{quote(name, safe='')}"), json)


@app.command("update")
def update(
    name: Name,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="The models that the tenant may use; repeat it. Not given: as before."),
    ] = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Allow every model.")] = False,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Let the tenant in, or not.")] = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Change a tenant; what is not given stays."""
    if model and all_models:
        raise typer.BadParameter("--model and --all-models exclude each other")
    change: Document = {}
    if model or all_models:
        change["models"] = model or None
    if enable is not None:
        change["disabled"] = not enable
    if not change:
        raise typer.BadParameter("nothing to change: give --model, --all-models, --enable or --disable")
    _print(ask(url, admin_key, "PATCH", f"/tenants/{quote(name, safe='')}", change), json)


@app.command("delete")
def delete(name: Name, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False) -> None:
    """Disable a tenant: its keys are refused from now on, its records are kept."""
    _print(ask(url, admin_key, "DELETE", f"/tenants/{quote(name, safe='')}"), json)


_COLUMNS = ("NAME", "STATE", "MODELS", "CREATED")


def _row(tenant: Document) -> tuple[str, ...]:
    models, created = tenant.get("models"), tenant.get("created_at")
    return (
        str(tenant.get("name")),
        "disabled" if tenant.get("disabled") else "enabled",
        ", ".join(models) if isinstance(models, list) else "all",
        day(created),
    )


def day(moment: object) -> str:
    """A moment in Unix seconds as a UTC day."""
    if not isinstance(moment, int):
        return "never"
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return str(moment)


def _print(tenant: Document, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
    else:
        print_table(_COLUMNS, [_row(tenant)], empty="")
