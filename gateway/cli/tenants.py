"""`imagegate tenant`."""

from typing import Annotated, Final

import typer

from gateway.cli.about import Tags, about_fields, tags_document
from gateway.cli.client import AdminApi, Document, Yes, admin_command, pages, rows
from gateway.cli.contexts import confirm
from gateway.cli.limit_options import limit_fields
from gateway.cli.output import day, print_fields, print_table, print_text, printable

app = typer.Typer(help="Manage tenants and their limits.", no_args_is_help=True)

_PAGE: Final = 100
_USED: Final = {
    "IMG/DAY": ("images_today", "quotas", "images_per_day"),
    "IMG/MONTH": ("images_this_month", "quotas", "images_per_month"),
    "USD/MONTH": ("usd_this_month", "quotas", "usd_per_month"),
    "REQ/MIN": ("requests_last_minute", "limits", "requests_per_minute"),
    "IMG/MIN": ("images_last_minute", "limits", "images_per_minute"),
}
"""Columns of a list: what is used, and its limit."""

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model that the tenant may use; repeatable. Default: every model.")
]
ChangedModels = Annotated[
    list[str] | None,
    typer.Option("--model", help="The models that the tenant may use; repeatable. Default: unchanged."),
]
Weight = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Share of scarce capacity, relative to other tenants; 1 by default.")
]
KeepHours = Annotated[
    int | None, typer.Option(min=0, max=720, help="Hours for which its pictures are stored; 0 for the setting's.")
]
StorageBytes = Annotated[
    int | None, typer.Option(min=-1, help="Bytes that it may have stored at one time; -1 for the setting's.")
]

Owner = Annotated[str | None, typer.Option(help="Who answers for it, for reports.", show_default=False)]
Contact = Annotated[str | None, typer.Option(help="How to reach the owner.", show_default=False)]
CostCentre = Annotated[str | None, typer.Option(help="Who pays, for reports.", show_default=False)]
RequiredTag = Annotated[
    list[str] | None,
    typer.Option("--required-tag", metavar="KEY", help="A tag that its requests must have; repeatable."),
]
AlertPercent = Annotated[
    list[int] | None,
    typer.Option("--alert-percent", min=1, max=1000, help="Percentage of a quota that alerts; repeatable."),
]
AlertTo = Annotated[
    list[str] | None,
    typer.Option("--alert-to", metavar="URL", help="mailto: address or URL of its alerts; repeatable."),
]


@admin_command(app, "create")
def create(
    api: AdminApi,
    name: Name,
    limits: Document,
    model: Models = None,
    weight: Weight = None,
    keep_hours: KeepHours = None,
    storage_bytes: StorageBytes = None,
    owner: Owner = None,
    contact: Contact = None,
    cost_centre: CostCentre = None,
    tag: Tags = None,
    required_tag: RequiredTag = None,
    alert_percent: AlertPercent = None,
    alert_to: AlertTo = None,
) -> None:
    """Create a tenant. Omitted limits are unlimited."""
    body: Document = {"name": name, "models": model} | ({} if weight is None else {"weight": weight})
    about = _about(owner, contact, cost_centre, tag, required_tag) | alerts_document(alert_percent, alert_to)
    terms = limits | _storage_terms(keep_hours, storage_bytes) | about
    api.show(api.ask("POST", "tenants", body=body | terms), print_tenant)


@admin_command(app, "list")
def list_(
    api: AdminApi,
    search: Annotated[
        str | None, typer.Option(help="A part of name, owner or cost centre.", show_default=False)
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by name, or by this month's usd or images.")] = None,
    order: Annotated[str | None, typer.Option(help="asc or desc. Default: asc by name, else desc.")] = None,
) -> None:
    """List tenants, with their quotas and limits and what is used of them."""
    query = {"used": "true", "limit": _PAGE, "q": search, "sort": sort, "order": order}
    api.show(pages(api, "tenants", query=query), _print_list)


def _print_list(response: Document) -> None:
    """Prints a column of a limit only if a tenant has it, except those of the month."""
    columns = {
        name: column
        for name, column in _USED.items()
        if name.endswith("MONTH") or any(_of_limit(tenant, *column).count("/") for tenant in rows(response))
    }
    listed = []
    for tenant in rows(response):
        state = _state(tenant) + (", declared" if tenant.get("declared") else "")
        cells = (_of_limit(tenant, *column) for column in columns.values())
        listed.append((tenant.get("name"), state, _models(tenant), *cells))
    print_table(("NAME", "STATE", "MODELS", *columns), listed, empty="No tenants.", numbers=len(columns))


def _of_limit(tenant: Document, used: str, part: str, limit: str) -> str:
    """Renders what is used, of the limit if there is one."""
    amounts, limits = tenant.get("used"), tenant.get(part)
    amount = amounts.get(used, "") if isinstance(amounts, dict) else ""
    allowed = limits.get(limit) if isinstance(limits, dict) else None
    return f"{amount}" if allowed is None else f"{amount}/{allowed}"


@admin_command(app, "show")
def show(api: AdminApi, name: Name) -> None:
    """Show one tenant with its limits and quotas."""
    api.show(api.ask("GET", "tenants", name), print_tenant)


@admin_command(app, "update")
def update(
    api: AdminApi,
    name: Name,
    limits: Document,
    model: ChangedModels = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Allow every model.")] = False,
    weight: Weight = None,
    keep_hours: KeepHours = None,
    storage_bytes: StorageBytes = None,
    owner: Owner = None,
    contact: Contact = None,
    cost_centre: CostCentre = None,
    tag: Tags = None,
    required_tag: RequiredTag = None,
    alert_percent: AlertPercent = None,
    alert_to: AlertTo = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Enable or disable the tenant.")] = None,
) -> None:
    """Change a tenant. Omitted options stay unchanged."""
    if model and all_models:
        raise typer.BadParameter("--model and --all-models cannot be used together")
    change: Document = {"models": model or None} if model or all_models else {}
    change |= ({} if weight is None else {"weight": weight}) | ({} if enable is None else {"disabled": not enable})
    change |= limits | _storage_terms(keep_hours, storage_bytes)
    change |= _about(owner, contact, cost_centre, tag, required_tag) | alerts_document(alert_percent, alert_to)
    if not change:
        raise typer.BadParameter("nothing to change; for what can be changed: imagegate tenant update --help")
    response = api.ask("PATCH", "tenants", name, body=change)
    api.show(response, print_tenant)
    if enable and not api.json:
        keys = [f"{key.get('id')} {key.get('label')}".strip() for key in rows(api.ask("GET", "tenants", name, "keys"))]
        typer.echo(printable(f"Keys that are valid: {', '.join(keys) or 'none'}."), err=True)
    if response.get("declared"):
        _hint(name, change)


@admin_command(app, "rename")
def rename(
    api: AdminApi, name: Name, new_name: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")]
) -> None:
    """Rename a tenant. Its keys, limits, counters, usage, files and audit stay, and its requests go on."""
    response = api.ask("PATCH", "tenants", name, body={"name": new_name})
    api.show(response, print_tenant)
    if not api.json:
        typer.echo(f"The name {name} is refused from now on, and cannot be given to another tenant.", err=True)
    if response.get("declared"):
        typer.echo(f'Rename it in the configuration too: [[tenants]] name = "{new_name}".', err=True)


@admin_command(app, "delete")
def delete(
    api: AdminApi,
    name: Name,
    purge: Annotated[bool, typer.Option("--purge", help="Delete all of it but its bill, for good.")] = False,
    yes: Yes = False,
) -> None:
    """Disable a tenant, cancel its batches and delete what it stored. Its keys are refused, and its records remain."""
    if purge:
        confirm(api.place, f"delete the tenant '{name}' for good, all but its bill", yes=yes)
        api.show(api.ask("POST", "tenants", name, "purge"), _print_purge)
        return
    confirm(api.place, f"delete what the tenant '{name}' stored, and disable it", yes=yes)
    answer = api.ask("DELETE", "tenants", name)
    api.show(answer, print_tenant)
    if answer.get("erasing_since") and not api.json:
        typer.echo("Its open batches end, and what it stored is being deleted. To see when that is done:", err=True)
        typer.echo(f"imagegate tenant show {name}", err=True)
    if answer.get("declared"):
        _hint(name, {"disabled": True})
    elif not api.json:
        typer.echo(f"To enable it again: imagegate tenant update {name} --enable", err=True)


def _print_purge(response: Document) -> None:
    name, pseudonym = response.get("name"), response.get("pseudonym")
    print_text(f"{name} is disabled and is being deleted. Its bill stays as '{pseudonym}'.")
    print_text(
        "It begins 20 minutes after the last request, once the stored files are deleted; until then, "
        f"`imagegate tenant update {name} --enable` ends it. It is done when `imagegate tenant show {name}` finds none."
    )


def _hint(name: str, change: Document) -> None:
    """Warns if a start or reload reverts the change of a declared tenant."""
    if change.keys() - {"disabled"}:
        besides = ", except --disable" if change.get("disabled") else ""
        typer.echo(
            f"{name} is declared in the configuration. The next start or reload reverts this change{besides}.", err=True
        )
    if change.get("disabled"):
        typer.echo("The configuration declares it, but it stays disabled until:", err=True)
        typer.echo(f"imagegate tenant update {name} --enable", err=True)
    elif "disabled" in change:
        typer.echo("If the configuration disables it, the next start or reload does so again.", err=True)


def print_tenant(tenant: Document) -> None:
    began_at = tenant.get("erasing_since")
    print_fields(
        ("name", tenant.get("name")),
        ("state", _state(tenant)),
        ("erasing since", day(began_at, "%Y-%m-%d %H:%M:%S UTC") if began_at else None),
        ("models", _models(tenant)),
        ("weight", tenant.get("weight")),
        ("created", day(tenant.get("created_at"))),
        ("declared", "in the configuration" if tenant.get("declared") else None),
        ("keep hours", tenant.get("keep_hours")),
        ("storage bytes", tenant.get("storage_bytes")),
        *about_fields(tenant),
        *limit_fields(tenant),
    )


def _about(
    owner: str | None,
    contact: str | None,
    cost_centre: str | None,
    tag: list[str] | None,
    required_tag: list[str] | None,
) -> Document:
    """Builds the fields that were given; an empty text removes."""
    texts = {"owner": owner, "contact": contact, "cost_centre": cost_centre}
    about: Document = {name: text or None for name, text in texts.items() if text is not None}
    if tag:
        about["tags"] = tags_document(tag)
    if required_tag:
        about["required_tags"] = [key for key in required_tag if key]
    return about


def alerts_document(percent: list[int] | None, to: list[str] | None) -> Document:
    alerts = ({"percent": percent} if percent else {}) | ({"to": [url for url in to if url]} if to else {})
    return {"alerts": alerts} if alerts else {}


def _storage_terms(keep_hours: int | None, storage_bytes: int | None) -> Document:
    """Builds the fields that were given; null is the setting's value."""
    terms: Document = {} if keep_hours is None else {"keep_hours": keep_hours or None}
    if storage_bytes is not None:
        terms["storage_bytes"] = None if storage_bytes < 0 else storage_bytes
    return terms


def _state(tenant: Document) -> str:
    by = f" by {tenant['disabled_by']}" if tenant.get("disabled_by") else ""
    return f"disabled{by}" if tenant.get("disabled") else "enabled"


def _models(tenant: Document) -> str:
    models = tenant.get("models")
    return (", ".join(models) or "none") if isinstance(models, list) else "all"
