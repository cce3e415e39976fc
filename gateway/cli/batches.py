"""`imagegate batch`."""

from typing import Annotated

import typer

from gateway.cli.client import AdminApi, Document, Yes, admin_command, number, rows
from gateway.cli.contexts import confirm
from gateway.cli.output import minute, print_fields, print_table, printable

app = typer.Typer(help="Show and cancel batches of tenants.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(help="The tenant's name.")]
BatchId = Annotated[str, typer.Argument(help="The batch's ID, as listed.")]


@admin_command(app, "list")
def list_batches(
    api: AdminApi,
    tenant: TenantName,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of batches, newest first.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="BATCH", help="Continue an earlier list.")] = None,
) -> None:
    """List the batches of a tenant."""
    answer = api.ask("GET", "tenants", tenant, "batches", query={"limit": limit, "after": after})
    api.show(answer, _print_list)


@admin_command(app, "show")
def show(api: AdminApi, tenant: TenantName, batch: BatchId) -> None:
    """Show one batch."""
    api.show(api.ask("GET", "tenants", tenant, "batches", batch), _print)


@admin_command(app, "cancel")
def cancel(api: AdminApi, tenant: TenantName, batch: BatchId, yes: Yes = False) -> None:
    """Cancel a batch. Lines that were sent are finished and charged."""
    confirm(api.place, f"cancel the batch {batch} of '{tenant}'", yes=yes)
    api.show(api.ask("POST", "tenants", tenant, "batches", batch, "cancel"), _print)


def _print_list(answer: Document) -> None:
    found, columns = rows(answer), ("BATCH", "STATUS", "CREATED", "MODEL", "LINES", "COMPLETED", "FAILED")
    print_table(columns, [_row(batch) for batch in found], empty="No batches.", numbers=3)
    if answer.get("has_more"):
        typer.echo(printable(f"More batches: --after {found[-1]['id']}"), err=True)


def _row(batch: Document) -> list[str]:
    counts = [str(number(batch, "request_counts", name)) for name in ("total", "completed", "failed")]
    text = [str(batch.get(name) or "-") for name in ("id", "status")]
    return [*text, minute(batch.get("created_at")), str(batch.get("model") or "-"), *counts]


def _print(batch: Document) -> None:
    """Prints the fields that are set, and the first problems of an invalid file."""
    names = ("id", "status", "endpoint", "model", "key_id", "input_file_id", "output_file_id", "error_file_id")
    paused = batch.get("paused")
    print_fields(
        *((name, batch.get(name)) for name in names),
        *((name, minute(value)) for name, value in batch.items() if name.endswith("_at") and value),
        *((name, number(batch, "request_counts", name)) for name in ("total", "completed", "failed")),
        (
            "paused",
            f"{paused.get('reason')}, until {minute(paused.get('until'))}" if isinstance(paused, dict) else None,
        ),
    )
    errors = batch.get("errors")
    for error in rows(errors) if isinstance(errors, dict) else ():
        print(printable(f"line {error.get('line') or '-'}: {error.get('code')}: {error.get('message')}"))
