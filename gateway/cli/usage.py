"""`imagegate usage`: reports as table, CSV or JSON, and verification; exports.py has exports and month closes."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Final, Literal

import typer

from gateway.cli import records
from gateway.cli.client import DEFAULT_URL, AdminApi, AdminKeyOption, Document, UrlOption, admin_command, number, rows
from gateway.cli.exports import register, save
from gateway.cli.output import fail, print_json, print_table, printable, progressing
from gateway.cli.usage_options import (
    ByOption,
    FromOption,
    KeyOption,
    LastOption,
    ModelOption,
    MonthOption,
    TagOption,
    TenantOption,
    ToOption,
    period_query,
)

app = typer.Typer(help="Report and export usage, verify totals and close months.", invoke_without_command=True)
register(app)
records.register(app)

_AMOUNTS: Final = ("requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd")
_RARE: Final = frozenset({"withheld", "lost", "unconfirmed"})
"""Columns omitted from a table if all values are 0."""
_PURCHASES: Final = "purchases"
"""The measure of a difference within the records."""
FormatOption = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Output format.")]


@app.callback(invoke_without_command=True)
def report(
    context: typer.Context,
    tenant: TenantOption = None,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
    by: ByOption = "day",
    tag: TagOption = None,
    model: ModelOption = None,
    key: KeyOption = None,
    format_: FormatOption = "table",
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Report usage by day, tenant, cost centre, model, key, tag, user and others."""
    if context.invoked_subcommand is not None:
        for name in context.params:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                # Before the subcommand it would be ignored: `imagegate usage --tenant a export` exports every tenant.
                raise typer.BadParameter(f"place options after '{context.invoked_subcommand}'")
        return
    query = period_query(tenant, first, last, month, days) | {"tag": tag, "model": model, "key": key}
    if format_ == "csv" and not json:
        with AdminApi(url, admin_key, json).download("usage", "export", query=query | {"by": by}) as response:
            save(response, sys.stdout.buffer)
        return
    groups, answer = _whole_report(AdminApi(url, admin_key, json), by, query)
    if json or format_ == "json":
        print_json(answer)
    else:
        _print_report(groups, answer)


def print_own_report(api: AdminApi, by: str, query: dict[str, object]) -> None:
    """Prints the report of a tenant by itself."""
    groups, answer = _whole_report(api, by, query)
    api.show(answer, partial(_print_report, groups))


def _whole_report(api: AdminApi, by: str, query: dict[str, object]) -> tuple[list[str], Document]:
    """Returns the groups, and a report as if it had one page."""
    pages = list(_pages(api, query | {"by": by}))
    report = pages[0] | {"data": [row for each in pages for row in rows(each)], "next_cursor": None}
    return list(dict.fromkeys(by.split(","))), report


@admin_command(app, "verify")
def verify(
    api: AdminApi,
    tenant: TenantOption = None,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
) -> None:
    """Recompute the totals from the records and print every difference."""
    query = period_query(tenant, first, last, month, days)
    pages: list[Document] = []
    with progressing("comparing", "records") as progress:
        total = number(api.ask("GET", "usage", "records", query=query | {"limit": "1"}), "total")
        for response in _pages(api, query, "verify"):
            pages.append(response)
            progress(sum(number(each, "records") for each in pages), total)
    counted = ("days", "records", "expired_days", "busy_days")
    counts = {name: sum(number(each, name) for each in pages) for name in counted}
    differences = [difference for each in pages for difference in rows(each, "differences")]
    response = pages[0] | counts | {"differences": differences, "next_cursor": None}
    api.show(response, lambda _: _print_verification(counts, differences))
    if differences:
        fail(f"totals and records differ: {_counted(len(differences), 'difference')}")


def _pages(api: AdminApi, query: dict[str, object], *path: str) -> Iterator[Document]:
    """Yields every page. The cursor encodes the query."""
    while True:
        response = api.ask("GET", "usage", *path, query=query)
        yield response
        cursor = response.get("next_cursor")
        if not isinstance(cursor, str):
            return
        query = {"cursor": cursor}


def _print_report(groups: Sequence[str], response: Document) -> None:
    amounts_total = response.get("total")
    total = amounts_total if isinstance(amounts_total, dict) else {}
    amounts = [name for name in _AMOUNTS if name not in _RARE or total.get(name)]
    if any(row.get("label") for row in rows(response)):
        groups = [name for group in groups for name in (("key", "label") if group == "key" else (group,))]
    names = [*groups, *amounts]
    decimals = max(_decimals(row) for row in [*rows(response), total])
    print(printable(f"{response.get('from')} to {response.get('to')}, {response.get('time_zone')}"))
    print_table(
        [name.upper() for name in names],
        [_cells(row, names, decimals) for row in rows(response)],
        empty="No usage.",
        numbers=len(amounts),
        total=["TOTAL", *([""] * (len(groups) - 1)), *_cells(total, amounts, decimals)],
    )


def _cells(row: Document, names: Sequence[str], decimals: int) -> list[str]:
    """Renders a row's cells, with money padded to the same number of decimals. `-` is a group without a value."""
    pad = "0" * (decimals - _decimals(row))
    shown = ["-" if row.get(name) in {"", None} else row.get(name) for name in names]
    return [f"{value}{pad if name == 'usd' else ''}" for name, value in zip(names, shown, strict=True)]


def _decimals(row: Document) -> int:
    return len(str(row.get("usd")).partition(".")[2])


def _print_verification(counts: dict[str, int], differences: Sequence[Document]) -> None:
    for found in differences:
        where = f"{found.get('tenant')} {found.get('day')} key {found.get('key')} model {found.get('model')}"
        for name in ("batch", "split"):
            if value := found.get(name):
                where += f" {name} {value}"
        told = f"{found.get('measure')} {found.get('sums')} in the totals, {found.get('records')} in the records"
        if found.get("measure") == _PURCHASES:
            told = "an idempotency key or a batch line bought images twice"
        print(printable(f"{where}: {told}"))
    compared = f"{_counted(counts['days'], 'tenant day')}, {_counted(counts['records'], 'record')}"
    print(f"Compared {compared}: {_counted(len(differences), 'difference') if differences else 'no difference'}.")
    missed = {"expired_days": "with expired records.", "busy_days": "with requests meanwhile; try again later."}
    for name, why in missed.items():
        if counts[name]:
            print(f"Not compared: {_counted(counts[name], 'day')} {why}")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
