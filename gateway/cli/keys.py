"""`imagegate key`."""

import time
from typing import Annotated
from urllib.parse import quote

import typer

from gateway.cli.admin_client import DEFAULT_URL, AdminKeyOption, Document, JsonOption, UrlOption, ask, rows
from gateway.cli.output import fail, print_json, print_table
from gateway.cli.tenants import day

app = typer.Typer(help="A tenant's keys.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(help="The tenant's name.")]


@app.command("create")
def create(
    tenant: TenantName,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires; not given: never.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Create a key and show it, this once."""
    body: Document = {"label": label, "expires_at": int(time.time()) + days * 86_400 if days else None}
    answer = ask(url, admin_key, "POST", f"/tenants/{quote(tenant, safe='')}/keys", body)
    if json:
        print_json(answer)
        return
    print(answer.get("key"))
    typer.echo(f"Key {answer.get('id')} of {tenant}. It is shown only now: keep it in a safe place.", err=True)


@app.command("list")
def list_(
    tenant: TenantName, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False
) -> None:
    """List a tenant's valid keys, without the keys themselves."""
    answer = ask(url, admin_key, "GET", f"/tenants/{quote(tenant, safe='')}/keys")
    if json:
        print_json(answer)
        return
    listed = [
        (str(key.get("id")), str(key.get("label")), day(key.get("created_at")), day(key.get("expires_at")))
        for key in rows(answer)
    ]
    print_table(("ID", "LABEL", "CREATED", "EXPIRES"), listed, empty=f"{tenant} has no keys.")


@app.command("revoke")
def revoke(
    tenant: TenantName,
    key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")],
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Revoke a key: it is refused everywhere within a second."""
    keys = rows(ask(url, admin_key, "GET", f"/tenants/{quote(tenant, safe='')}/keys"))
    if not any(key.get("id") == key_id for key in keys):
        fail(f"{tenant} has no key '{key_id}'; see imagegate key list {tenant}")
    answer = ask(url, admin_key, "DELETE", f"/keys/{quote(key_id, safe='')}")
    if json:
        print_json(answer)
    else:
        print(f"Key {key_id} of {tenant} is revoked.")
