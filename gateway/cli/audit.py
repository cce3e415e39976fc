"""`imagegate audit`."""

from typing import Annotated

import typer

from gateway.cli.client import AdminApi, Document, rows
from gateway.cli.output import minute, print_text, printable
from gateway.cli.usage_options import check_day

_IN_FIRST_LINE = ("id", "name", "tenant", "created_at", "upstream", "account", "key")


def audit(
    api: AdminApi,
    tenant: Annotated[str | None, typer.Option(help="Show only entries of this tenant.", show_default=False)] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Show only entries of this upstream's keys.", show_default=False)
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Show only changes by this admin key.", show_default=False)] = None,
    action: Annotated[
        str | None,
        typer.Option(help="Show only this action, as key.revoke, or all that begin with key.", show_default=False),
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", callback=check_day, metavar="DAY", help="The first day, UTC.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", callback=check_day, metavar="DAY", help="The last day, UTC.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of entries, newest first.")] = 20,
    before: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue an earlier list.")] = None,
) -> None:
    """Show changes of tenants, keys and provider keys with actor and time, newest first."""
    query = {"limit": limit, "tenant": tenant, "upstream": upstream, "before": before}
    query |= {"actor": actor, "action": action, "from": first, "to": last}
    api.show(api.ask("GET", "audit", query=query), _print_list)


def _print_list(response: Document) -> None:
    for entry in rows(response):
        _print(entry)
    if following := response.get("next"):
        found = "More entries" if rows(response) else "No entries among the newest. Older ones"
        typer.echo(printable(f"{found}: --before {following}"), err=True)
    elif not rows(response):
        print("No entries.")


def _print(entry: Document) -> None:
    """One line with actor, action and target, and one for each value that changed."""
    key = f" key {entry['key_id']}" if entry.get("key_id") else ""
    subject = entry.get("tenant") or entry.get("target")
    print_text(f"{minute(entry.get('at'))}  {entry.get('actor')}  {entry.get('action')}  {subject}{key}")
    before, after = _flat(entry.get("before")), _flat(entry.get("after"))
    for name in [*before, *(name for name in after if name not in before)] if after else []:
        had, has = before.get(name), after.get(name)
        if had != has and (before or name not in _IN_FIRST_LINE):
            absent = "false" if "true" in (had, has) else "none"
            print_text(f"{name}: {f'{had or absent} -> ' if before else ''}{has or absent}", indent=4)


def _flat(document: object, prefix: str = "") -> dict[str, str]:
    """Returns non-empty values by path."""
    flat: dict[str, str] = {}
    for name, value in document.items() if isinstance(document, dict) else ():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value)) or "none"
        elif name == "models":
            flat[prefix + name] = "all"
        elif value not in (None, "", False):
            shown = "true" if value is True else str(value)
            flat[prefix + name] = minute(value) if name.endswith(("_at", "_until")) else shown
    return flat
