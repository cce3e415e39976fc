"""`imagegate key`."""

import re
import sys
import time
from typing import Annotated, Final
from urllib.parse import quote

import typer

from gateway.cli.admin_client import DEFAULT_URL, AdminKeyOption, Document, JsonOption, UrlOption, ask, rows
from gateway.cli.limits import (
    Concurrency,
    ImagesPerDay,
    ImagesPerMinute,
    ImagesPerMonth,
    RequestsPerMinute,
    UsdPerMonth,
    limit_fields,
    limits_document,
)
from gateway.cli.output import day, fail, minute, print_fields, print_json, print_table, printable
from gateway.domain.tenants import digest, key_id
from gateway.stores.credentials import new_secret

app = typer.Typer(help="A tenant's keys.", no_args_is_help=True)


def _no_secret(text: str) -> str:
    """What is no whole key; one would end in messages and paths, which others read."""
    if text.startswith("sk-"):
        raise typer.BadParameter("give its id, the 10 characters behind sk-ig-")
    return text


TenantName = Annotated[str, typer.Argument(help="The tenant's name.", callback=_no_secret)]
KeyId = Annotated[str, typer.Argument(help="The key's id, as listed.", callback=_no_secret)]
Days = Annotated[int | None, typer.Option(min=1, max=36_500, help="Days from now until it expires.")]
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("create")
def create(
    tenant: TenantName,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    days: Days = None,
    requests_per_minute: RequestsPerMinute = None,
    images_per_minute: ImagesPerMinute = None,
    concurrency: Concurrency = None,
    images_per_day: ImagesPerDay = None,
    images_per_month: ImagesPerMonth = None,
    usd_per_month: UsdPerMonth = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Create a key and show it, this once. Its own limits hold besides the tenant's."""
    body: Document = {"label": label, "expires_at": _in_days(days)} | limits_document(
        requests_per_minute, images_per_minute, concurrency, images_per_day, images_per_month, usd_per_month
    )
    answer = ask(url, admin_key, "POST", f"/tenants/{quote(tenant, safe='')}/keys", body)
    if json:
        print_json(answer)
        return
    print(printable(str(answer.get("key"))))
    key_id = printable(str(answer.get("id")))
    typer.echo(f"Key {key_id} of {tenant}. It is shown only now: keep it in a safe place.", err=True)


@app.command("list")
def list_(
    tenant: TenantName, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = "", json: JsonOption = False
) -> None:
    """List a tenant's valid keys, without the keys themselves."""
    answer = ask(url, admin_key, "GET", f"/tenants/{quote(tenant, safe='')}/keys")
    if json:
        print_json(answer)
        return
    has_old = any(key.get("old_secret_until") for key in rows(answer))
    columns = ("ID", "LABEL", "CREATED", "EXPIRES", *(("OLD KEY UNTIL",) if has_old else ()))
    print_table(columns, [_row(key)[: len(columns)] for key in rows(answer)], empty=f"{tenant} has no keys.")


@app.command("show")
def show(
    tenant: TenantName,
    key_id: KeyId,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Show one key with its own limits and quotas."""
    _print(_find(url, admin_key, tenant, key_id), json)


@app.command("update")
def update(
    tenant: TenantName,
    key_id: KeyId,
    label: Annotated[str | None, typer.Option(help="What the key is for.", show_default=False)] = None,
    days: Days = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Let it never expire.")] = False,
    requests_per_minute: RequestsPerMinute = None,
    images_per_minute: ImagesPerMinute = None,
    concurrency: Concurrency = None,
    images_per_day: ImagesPerDay = None,
    images_per_month: ImagesPerMonth = None,
    usd_per_month: UsdPerMonth = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Change a key; what is not given stays."""
    if days and never_expires:
        raise typer.BadParameter("--days and --never-expires exclude each other")
    change = limits_document(
        requests_per_minute, images_per_minute, concurrency, images_per_day, images_per_month, usd_per_month
    )
    change |= {} if label is None else {"label": label}
    change |= {"expires_at": _in_days(days)} if days or never_expires else {}
    if not change:
        raise typer.BadParameter("nothing to change: give a limit, --label, --days or --never-expires")
    _find(url, admin_key, tenant, key_id)
    answer = ask(url, admin_key, "PATCH", f"/keys/{quote(key_id, safe='')}", change)
    _print(answer, json)
    if answer.get("declared"):
        typer.echo(f"{key_id} is declared in the configuration: a start or reload undoes this.", err=True)


@app.command("rotate")
def rotate(
    tenant: TenantName,
    key_id: KeyId,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key works on: 24h, 30m, 7d, or 0 to end it at once.")
    ] = "24h",
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Make a new key in the place of one and show it, this once. Id, label and limits stay."""
    grace_s = _seconds(grace)
    before = _find(url, admin_key, tenant, key_id)
    answer = ask(url, admin_key, "POST", f"/keys/{quote(key_id, safe='')}/rotate", {"grace_s": grace_s})
    if json:
        print_json(answer)
        return
    print(printable(str(answer.get("key"))))
    typer.echo(f"Key {key_id} of {tenant}. It is shown only now: keep it in a safe place.", err=True)
    until = answer.get("old_secret_until")
    typer.echo(f"The old one {f'works until {minute(until)}' if until else 'is refused from now on'}.", err=True)
    if ended := before.get("old_secret_until"):
        typer.echo(f"The one before that, due to work until {minute(ended)}, is refused from now on.", err=True)


@app.command("revoke")
def revoke(
    tenant: TenantName,
    key_id: KeyId,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: JsonOption = False,
) -> None:
    """Revoke a key: it is refused everywhere within a second."""
    _find(url, admin_key, tenant, key_id)
    answer = ask(url, admin_key, "DELETE", f"/keys/{quote(key_id, safe='')}")
    if json:
        print_json(answer)
    else:
        print(f"Key {key_id} of {tenant} is revoked.")
    if answer.get("declared"):
        typer.echo("It stays revoked although the configuration declares it: declare a new one.", err=True)


@app.command("hash")
def hash_(
    stdin: Annotated[bool, typer.Option("--stdin", help="Hash a key that is given on standard input.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key and the line that declares it under [[tenants.keys]]. Nothing is sent anywhere."""
    secret = sys.stdin.readline(200).strip() if stdin else new_secret()
    public_id = key_id(secret)
    if public_id is None:
        fail("that is no key of this gateway (sk-ig- and 42 letters and digits); imagegate key hash makes one")
    hashed = f"{public_id}.{digest(secret)}"
    if json:
        print_json({"hash": hashed} if stdin else {"key": secret, "hash": hashed})
        return
    if not stdin:
        print(secret)
        typer.echo("It is shown only now: keep it in a safe place. For the configuration:", err=True)
    print(f'hash = "{hashed}"')


def _find(url: str, admin_key: str, tenant: str, key_id: str) -> Document:
    """The key, which must be the tenant's."""
    key = ask(url, admin_key, "GET", f"/keys/{quote(key_id, safe='')}")
    if key.get("tenant") != tenant:
        fail(f"{tenant} has no key '{key_id}'; see imagegate key list {tenant}")
    return key


def _print(key: Document, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    print_fields(
        [
            ("id", str(key.get("id"))),
            ("tenant", str(key.get("tenant"))),
            ("label", str(key.get("label"))),
            ("created", day(key.get("created_at"))),
            ("expires", day(key.get("expires_at"))),
            *([("old key until", minute(key["old_secret_until"]))] if key.get("old_secret_until") else []),
            *([("declared", "in the configuration")] if key.get("declared") else []),
            *limit_fields(key),
        ]
    )


def _row(key: Document) -> tuple[str, ...]:
    until = key.get("old_secret_until")
    days = day(key.get("created_at")), day(key.get("expires_at"))
    return str(key.get("id")), str(key.get("label")), *days, minute(until) if until else ""


def _in_days(days: int | None) -> int | None:
    return int(time.time()) + days * 86_400 if days else None


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,7})([smhd]?)", text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else -1
    if not 0 <= seconds <= 30 * 86_400:
        raise typer.BadParameter("give a time up to 30d, as 24h, 30m or 0", param_hint="--grace")
    return seconds
