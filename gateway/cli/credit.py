"""`imagegate tenant credit`."""

from typing import Annotated, Literal

import typer

from gateway.cli.client import AdminApi, Document
from gateway.cli.limit_options import limit_fields
from gateway.cli.output import print_fields
from gateway.cli.tenants import Name


def credit(
    api: AdminApi,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; the audit log has it.")],
    images: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="Images to give back, today and this month.")
    ] = None,
    usd: Annotated[str | None, typer.Option(metavar="USD", help="US dollars to give back this month, as 5.00.")] = None,
    reset: Annotated[
        Literal["images_per_day", "images_per_month", "usd_per_month"] | None,
        typer.Option(help="Give back all that was charged to this quota, and report its percentages again."),
    ] = None,
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="The month, as 2026-01. Images then count in it alone.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="An ID: repeating it gives the credit only once.")] = None,
) -> None:
    """Give back quota of the current day or month. The bill does not change."""
    if sum(part is not None for part in (images, usd, reset)) != 1:
        raise typer.BadParameter("expected exactly one of --images, --usd and --reset")
    given = {"images": images, "usd": usd, "reset": reset, "month": month, "id": id_}
    body: Document = {"reason": reason} | {part: value for part, value in given.items() if value is not None}
    api.show(api.ask("POST", "tenants", name, "credit", body=body), _print_credit)


def _print_credit(response: Document) -> None:
    print_fields(
        ("name", response.get("tenant")),
        ("day, month", f"{response.get('day')}, {response.get('month')}"),
        ("repeated", "given before under this ID" if response.get("repeated") else None),
        *limit_fields(response)[1:],
    )
