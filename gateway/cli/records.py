"""`imagegate usage records`."""

from typing import Annotated, Literal

import typer

from gateway.cli.client import AdminApi, Document, admin_command, rows
from gateway.cli.output import print_table, printable
from gateway.cli.usage_options import FromOption, LastOption, MonthOption, TenantOption, ToOption, period_query


def records(
    api: AdminApi,
    tenant: TenantOption = None,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Show only this request.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Show only the requests of this API key.")] = None,
    model: Annotated[str | None, typer.Option(help="Show only the requests for this model.")] = None,
    outcome: Annotated[
        Literal["delivered", "unconfirmed", "lost", "withheld", "refused", "not_sent"] | None,
        typer.Option(help="Show only the requests of this outcome."),
    ] = None,
    order: Annotated[Literal["asc", "desc"], typer.Option(help="desc: newest first.")] = "desc",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of records.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue an earlier list.")] = None,
) -> None:
    """List admitted requests with their outcome and cost, newest first."""
    query = period_query(tenant, first, last, month, days) | {"request_id": request_id, "key": key, "model": model}
    query |= {"outcome": outcome, "order": None if cursor else order, "limit": limit, "cursor": cursor}
    api.show(api.ask("GET", "usage", "records", query=query), _print_records)


def register(app: typer.Typer) -> None:
    admin_command(app, "records")(records)


def _print_records(response: Document) -> None:
    columns = ("TIME", "REQUEST", "TENANT", "KEY", "MODEL", "OUTCOME", "IMAGES", "USD")
    names = ("time", "request_id", "tenant", "key_id", "model", "outcome", "delivered", "usd")
    lines = [[record.get(name) for name in names] for record in rows(response)]
    print_table(columns, lines, empty="No records.", numbers=2)
    if response.get("next_cursor"):
        typer.echo(printable(f"More records: --cursor {response['next_cursor']}"), err=True)
