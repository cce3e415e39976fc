"""`imagegate refusals`, and a lead's `imagegate me refusals`."""

from typing import Annotated, Final

import typer

from gateway.cli.client import AdminApi, Document, rows
from gateway.cli.output import minute, print_table, printable
from gateway.cli.usage_options import check_day

_COLUMNS: Final = {
    "request_id": "REQUEST",
    "tenant": "TENANT",
    "key": "KEY",
    "model": "MODEL",
    "code": "CODE",
    "param": "PARAM",
    "message": "MESSAGE",
}
"""Columns by field. One without values is omitted."""


def refusals(
    api: AdminApi,
    tenant: Annotated[str | None, typer.Option(help="Show only refusals of this tenant.", show_default=False)] = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Show only this request.")] = None,
    key: Annotated[
        str | None, typer.Option("--key-id", metavar="ID", help="Show only the requests of this API key.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Show only the requests for this model.")] = None,
    code: Annotated[str | None, typer.Option(help="Show only this error code.")] = None,
    first: Annotated[
        str | None, typer.Option("--from", callback=check_day, metavar="DAY", help="The first day, UTC.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", callback=check_day, metavar="DAY", help="The last day, UTC.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of refusals.")] = 20,
    before: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue an earlier list.")] = None,
) -> None:
    """List requests that were refused before anything was bought, newest first.

    The latest of 7 days are kept, at most 1,000 of a tenant. REQUEST is the response's header x-request-id.
    """
    query: Document = {"tenant": tenant, "request_id": request_id, "key": key, "model": model, "code": code}
    query |= {"from": first, "to": last, "limit": limit, "before": before}
    api.show(api.ask("GET", "refusals", query=query), _print_list)


def _print_list(response: Document) -> None:
    found = rows(response)
    names = [name for name in _COLUMNS if any(row.get(name) for row in found)]
    lines = [(minute(row.get("at")), *(row.get(name) or "" for name in names)) for row in found]
    print_table(("TIME", *(_COLUMNS[name] for name in names)), lines, empty="No refusals.")
    if response.get("next"):
        typer.echo(printable(f"More refusals: --before {response['next']}"), err=True)
