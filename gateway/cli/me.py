"""`imagegate me`: what a tenant sees and does with its own API key."""

from dataclasses import replace
from typing import Annotated

import typer

from gateway.cli import audit, console, keys, refusals, tenants
from gateway.cli.client import AdminApi, Document, Yes, rows, tenant_command
from gateway.cli.contexts import confirm
from gateway.cli.output import print_table, printable
from gateway.cli.usage import print_own_report
from gateway.cli.usage_options import (
    FromOption,
    LastOption,
    ModelOption,
    MonthOption,
    TagOption,
    ToOption,
    period_query,
)

app = typer.Typer(help="See what is left, and manage your own tenant, with its API key.", no_args_is_help=True)
key_app = typer.Typer(help="Manage your tenant's API keys, with a lead's key.", no_args_is_help=True)
app.add_typer(key_app, name="key")
for name, command in {
    "create": keys.create,
    "list": keys.list_own,
    "show": keys.show,
    "update": keys.update,
    "rotate": keys.rotate,
    "revoke": keys.revoke,
}.items():
    tenant_command(key_app, name)(command)
tenant_command(app, "refusals", "List your tenant's requests that were refused, newest first. Needs a lead's key.")(
    refusals.refusals
)
tenant_command(app, "audit", "Show changes of your tenant and its keys, newest first.")(audit.audit)

GroupOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="GROUP",
        help="Group by day, month, model, key, batch, tag, user, or several: day,key. Needs a lead's key.",
        show_default=False,
    ),
]
KeyIdOption = Annotated[str | None, typer.Option("--key-id", metavar="ID", help="Only requests of this API key.")]


@tenant_command(app, "usage")
def show_usage(
    api: AdminApi,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
    by: GroupOption = None,
    tag: TagOption = None,
    model: ModelOption = None,
    key_id: KeyIdOption = None,
) -> None:
    """Show what is left of limits and quotas, and the usage."""
    query: Document = period_query(None, first, last, month, days)
    if by is not None:
        print_own_report(api, by, query | {"tag": tag, "model": model, "key": key_id})
        return
    if tag or model or key_id:
        raise typer.BadParameter("--tag, --model and --key-id need --by, and a lead's key")
    own = replace(api, surface=replace(api.surface, prefix="/v1"))
    api.show(own.ask("GET", "usage", query=query), _print_usage)


@tenant_command(app, "show")
def show(api: AdminApi) -> None:
    """Show your tenant with its limits, quotas and alerts. Needs a lead's key."""
    api.show(api.ask("GET"), tenants.print_tenant)


@tenant_command(app, "update")
def update(api: AdminApi, alert_percent: tenants.AlertPercent = None, alert_to: tenants.AlertTo = None) -> None:
    """Choose your tenant's alerts. Needs a lead's key. Omitted options stay unchanged."""
    if not (change := tenants.alerts_document(alert_percent, alert_to)):
        raise typer.BadParameter("nothing to change; set --alert-percent or --alert-to")
    api.show(api.ask("PATCH", body=change), tenants.print_tenant)


@tenant_command(app, "members")
def members(api: AdminApi) -> None:
    """List who has access to your tenant in the console. Needs a lead's key."""
    api.show(api.ask("GET", "members"), console.print_members)


@tenant_command(app, "invite")
def invite(api: AdminApi, name: Annotated[str, typer.Argument(help="The person, as the audit log names it.")]) -> None:
    """Create a link that signs a member in once, within 24 hours. Needs a lead's key."""
    api.show(api.ask("POST", "members", body={"name": name, "role": "member"}), console.print_link)


@tenant_command(app, "end")
def end(
    api: AdminApi,
    member: Annotated[str, typer.Argument(help="ID of the session or invitation, as listed.")],
    yes: Yes = False,
) -> None:
    """End a session, or delete an invitation. Needs a lead's key."""
    confirm(api.place, f"end {member}", yes=yes)
    answer = api.ask("DELETE", "members", member)
    api.show(answer, lambda _: print(printable(f"The {answer.get('kind')} of {answer.get('name')} has ended.")))


def _print_usage(response: Document) -> None:
    """Prints the limits and quotas of tenant and key, then the usage by day and model."""
    lines = [
        (scope, name.replace("_", " "), status["resets_at"] or "", status["limit"], status["used"], status["remaining"])
        for scope in ("tenant", "key")
        for part in ("limits", "quotas", "budgets")
        for name, status in _object(_object(response.get(scope)).get(part)).items()
        if isinstance(status, dict)
    ]
    print_table(("OF", "LIMIT", "RESETS", "ALLOWED", "USED", "LEFT"), lines, empty="No limits.", numbers=3)
    print()
    days = [[str(cell) for cell in _row(row)] for row in rows(response)]
    total = ["TOTAL", "", *(str(cell) for cell in _row(_object(response.get("total")))[2:])]
    columns = ("DAY", "MODEL", "IMAGES", "USD", "OF THIS KEY", "USD")
    print_table(columns, days, empty="No usage.", numbers=4, total=total)


def _row(row: Document) -> list[object]:
    own = _object(row.get("key"))
    return [row.get("day"), row.get("model"), row.get("images"), row.get("usd"), own.get("images"), own.get("usd")]


def _object(value: object) -> Document:
    return value if isinstance(value, dict) else {}
