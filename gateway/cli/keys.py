"""`imagegate key`."""

import re
import sys
import time
from functools import partial
from typing import Annotated, Final

import typer

from gateway.cli.about import Tags, about_fields, tags_document
from gateway.cli.client import AdminApi, Document, Yes, admin_command, pages, rows
from gateway.cli.contexts import confirm
from gateway.cli.limit_options import limit_fields
from gateway.cli.output import day, fail, minute, print_fields, print_json, print_table, printable

app = typer.Typer(help="Manage a tenant's API keys.", no_args_is_help=True)


def _no_secret(text: str) -> str:
    """Rejects a whole key, which would appear in messages and paths."""
    if text.startswith("sk-"):
        raise typer.BadParameter("expected a key ID, got an API key; the ID is the 10 characters after sk-ig-")
    return text


TenantName = Annotated[str, typer.Argument(help="The tenant's name.", callback=_no_secret)]
KeyId = Annotated[str, typer.Argument(help="The key's ID, as listed.", callback=_no_secret)]
Days = Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it expires.")]
_VIEWS: Final = ("unlimited", "never_expires", "idle_90d", "expires_14d", "revoked")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@admin_command(app, "create")
def create(
    api: AdminApi,
    tenant: TenantName,
    limits: Document,
    label: Annotated[str, typer.Option(help="Purpose of the key.")] = "",
    days: Days = None,
    lead: Annotated[bool, typer.Option("--lead", help="It manages the tenant's own keys and makes no images.")] = False,
    tag: Tags = None,
) -> None:
    """Create a key and show it once. Its own limits apply in addition to the tenant's."""
    body: Document = {"label": label, "expires_at": _in_days(days), "tags": tags_document(tag)} | limits
    body["role"] = "lead" if lead else ""
    api.show(api.ask("POST", "tenants", tenant, "keys", body=body), partial(_print_secret, tenant))


@admin_command(app, "list")
def list_(
    api: AdminApi,
    tenant: Annotated[
        str | None,
        typer.Argument(help="The tenant's name. Default: all.", callback=lambda text: text and _no_secret(text)),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(help="List only keys that need attention: " + ", ".join(_VIEWS) + ".", show_default=False),
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="A part of label, ID or tenant's name.", show_default=False)
    ] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="List the revoked keys of the audit log instead.")] = False,
) -> None:
    """List the valid keys of a tenant, or of all."""
    if view is not None and view not in _VIEWS:
        raise typer.BadParameter(f"'{view}' is not one of {', '.join(_VIEWS)}", param_hint="--view")
    if revoked and view:
        raise typer.BadParameter("--revoked and --view cannot be used together")
    if tenant and not (view or search):
        list_own(api, tenant, revoked=revoked)
        return
    shown = "revoked" if revoked else view
    query = {"tenant": tenant, "view": shown, "q": search, "limit": 1000}
    api.show(pages(api, "keys", query=query), _print_all_revoked if shown == "revoked" else _print_all)


def list_own(
    api: AdminApi,
    tenant: TenantName,
    revoked: Annotated[bool, typer.Option("--revoked", help="List the revoked keys of the audit log instead.")] = False,
) -> None:
    """List a tenant's valid keys, without their secrets."""
    if revoked:
        entries = rows(pages(api, "audit", query={"tenant": tenant, "limit": 1000}, cursor="before"))
        found: list[Document] = [entry for entry in entries if entry.get("action") == "key.revoke"]
        api.show({"data": found}, partial(_print_revoked, tenant))
        return
    api.show(api.ask("GET", "tenants", tenant, "keys"), partial(_print_list, tenant))


def _print_all(response: Document) -> None:
    listed = []
    for key in rows(response):
        days = (day(key.get(name)) for name in ("created_at", "last_used_at", "expires_at"))
        listed.append((key.get("tenant"), key.get("id"), key.get("label"), *days))
    print_table(("TENANT", "ID", "LABEL", "CREATED", "USED", "EXPIRES"), listed, empty="No keys.")


def _print_all_revoked(response: Document) -> None:
    listed = [
        (key.get("tenant"), key.get("id"), key.get("label"), minute(key.get("revoked_at")), key.get("revoked_by"))
        for key in rows(response)
    ]
    print_table(("TENANT", "ID", "LABEL", "REVOKED", "BY"), listed, empty="No keys.")


def _print_revoked(tenant: str, response: Document) -> None:
    listed = []
    for entry in rows(response):
        before = entry.get("before")
        label = before.get("label", "") if isinstance(before, dict) else ""
        listed.append((entry.get("key_id"), label, minute(entry.get("at")), entry.get("actor")))
    print_table(("ID", "LABEL", "REVOKED", "BY"), listed, empty=f"The audit log has no revoked key of {tenant}.")


def _print_list(tenant: str, response: Document) -> None:
    has_old = any(key.get("old_secret_until") for key in rows(response))
    columns = ("ID", "LABEL", "CREATED", "USED", "EXPIRES", *(("OLD KEY UNTIL",) if has_old else ()))
    listed = []
    for key in rows(response):
        until = minute(key["old_secret_until"]) if key.get("old_secret_until") else ""
        days = (day(key.get(name)) for name in ("created_at", "last_used_at", "expires_at"))
        row = (key.get("id"), key.get("label"), *days, until)
        listed.append(row[: len(columns)])
    print_table(columns, listed, empty=f"{tenant} has no keys.")


@admin_command(app, "show")
def show(api: AdminApi, tenant: TenantName, key_id: KeyId) -> None:
    """Show one key with its own limits and quotas."""
    api.show(_find(api, tenant, key_id), _print)


@admin_command(app, "update")
def update(
    api: AdminApi,
    tenant: TenantName,
    key_id: KeyId,
    limits: Document,
    label: Annotated[str | None, typer.Option(help="Purpose of the key.", show_default=False)] = None,
    days: Days = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Remove the expiry.")] = False,
    lead: Annotated[
        bool | None,
        typer.Option("--lead/--no-lead", help="Whether it manages the tenant's own keys instead of making images."),
    ] = None,
    tag: Tags = None,
) -> None:
    """Change a key. Omitted options stay unchanged."""
    if days and never_expires:
        raise typer.BadParameter("--days and --never-expires cannot be used together")
    change = limits | ({} if label is None else {"label": label})
    change |= {"expires_at": _in_days(days)} if days or never_expires else {}
    change |= ({} if lead is None else {"role": "lead" if lead else ""}) | ({"tags": tags_document(tag)} if tag else {})
    if not change:
        raise typer.BadParameter("nothing to change; for what can be changed: imagegate key update --help")
    _find(api, tenant, key_id)
    response = api.ask("PATCH", "keys", key_id, body=change)
    api.show(response, _print)
    if response.get("declared"):
        typer.echo(
            f"{key_id} is declared in the configuration. The next start or reload reverts this change.", err=True
        )


@admin_command(app, "rotate")
def rotate(
    api: AdminApi,
    tenant: TenantName,
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option(metavar="TIME", help="Time for which the old key stays valid: 24h, 30m, 7d, or 0 to revoke it."),
    ] = "24h",
    yes: Yes = False,
) -> None:
    """Replace the secret of a key and show it once. ID, label and limits stay unchanged."""
    grace_s = _seconds(grace)
    before = _find(api, tenant, key_id)
    ended = before.get("old_secret_until")
    if ended or not grace_s:
        revoked = f"former secret, valid until {minute(ended)}," if grace_s else "present secret"
        confirm(api.place, f"rotate the key {key_id} of '{tenant}' and revoke its {revoked} at once", yes=yes)
    response = api.ask("POST", "keys", key_id, "rotate", body={"grace_s": grace_s})
    api.show(response, partial(_print_secret, tenant))
    if api.json:
        return
    until = response.get("old_secret_until")
    typer.echo(f"The old key {f'is valid until {minute(until)}' if until else 'is revoked'}.", err=True)
    if ended:
        typer.echo(f"The key before it, which was valid until {minute(ended)}, is revoked.", err=True)


@admin_command(app, "revoke")
def revoke(api: AdminApi, tenant: TenantName, key_id: KeyId, yes: Yes = False) -> None:
    """Revoke a key: every process refuses it within a second."""
    key = _find(api, tenant, key_id)
    label = f" ({key['label']})" if key.get("label") else ""
    confirm(api.place, f"revoke the key {key_id}{label} of '{tenant}'", yes=yes)
    response = api.ask("DELETE", "keys", key_id)
    api.show(response, lambda _: print(f"Key {key_id} of {tenant} is revoked."))
    if response.get("declared"):
        typer.echo("The configuration still declares it. It stays revoked: declare a new key.", err=True)


@app.command("hash")
def hash_(
    stdin: Annotated[bool, typer.Option("--stdin", help="Hash a key from standard input.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Create a key and the line that declares it under [[tenants.keys]]. Sends nothing."""
    from gateway.domain.tenants import digest, key_id
    from gateway.tenants.authentication import generate_api_key

    secret = sys.stdin.readline(200).strip() if stdin else generate_api_key()
    public_id = key_id(secret)
    if public_id is None:
        fail("not an API key of this gateway (sk-ig- and 42 letters and digits); imagegate key hash creates one")
    hashed = f"{public_id}.{digest(secret)}"
    if json:
        print_json({"hash": hashed} if stdin else {"key": secret, "hash": hashed})
        return
    if not stdin:
        print(secret)
        typer.echo("The key is shown only once. Store it safely. For the configuration:", err=True)
    print(f'hash = "{hashed}"')


def _find(api: AdminApi, tenant: str, key_id: str) -> Document:
    """Returns the key. Fails for a key of another tenant."""
    key = api.ask("GET", "keys", key_id)
    if key.get("tenant") != tenant:
        fail(f"{tenant} has no key '{key_id}'; see imagegate key list {tenant}")
    return key


def _print_secret(tenant: str, response: Document) -> None:
    print(printable(f"{response.get('key')}"))
    typer.echo(printable(f"Key {response.get('id')} of {tenant}. It is shown only once. Store it safely."), err=True)


def _print(key: Document) -> None:
    print_fields(
        *((name, str(key.get(name))) for name in ("id", "tenant", "label")),
        ("created", day(key.get("created_at"))),
        ("last used", minute(key.get("last_used_at"))),
        ("expires", day(key.get("expires_at"))),
        ("old key until", minute(key["old_secret_until"]) if key.get("old_secret_until") else None),
        ("declared", "in the configuration" if key.get("declared") else None),
        *about_fields(key),
        *limit_fields(key),
    )


def _in_days(days: int | None) -> int | None:
    return int(time.time()) + days * 86_400 if days else None


def _seconds(text: str) -> int:
    if re.fullmatch(r"0*[1-9][0-9]*", text):
        raise typer.BadParameter(f"{text} needs a unit: {text}h, {text}m, {text}s or {text}d", param_hint="--grace")
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", "0s" if text == "0" else text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else -1
    if not 0 <= seconds <= 30 * 86_400:
        raise typer.BadParameter("expected a time up to 30d, as 24h, 30m or 0", param_hint="--grace")
    return seconds
