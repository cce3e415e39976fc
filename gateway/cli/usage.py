"""`imagegate usage`: reports as table, CSV or JSON; record export; and verification of both."""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, TextIO

import typer

from gateway.cli.client import DEFAULT_URL, AdminApi, AdminKeyOption, Document, UrlOption, admin_command, number, rows
from gateway.cli.output import fail, print_json, print_table, printable, progressing

app = typer.Typer(help="Report usage, export records and verify totals.", invoke_without_command=True)

_GROUPS: Final = (
    *("day", "month", "tenant", "cost_centre", "owner", "model", "key", "batch", "tag", "user", "upstream"),
)
_AMOUNTS: Final = ("requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd")
_RARE: Final = frozenset({"withheld", "lost", "unconfirmed"})
"""Columns omitted from a table if all values are 0."""
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - meant so
"""Characters at which a spreadsheet evaluates a cell."""


def _check_form(expected: str, form: str) -> Callable[[str | None], str | None]:
    """Returns a callback that checks a date, and renders it as the server takes it."""

    def check(text: str | None) -> str | None:
        try:
            return text and datetime.strptime(text, form).replace(tzinfo=UTC).strftime(form)
        except ValueError:
            raise typer.BadParameter(f"expected {expected}, but got '{text}'") from None

    return check


def _parse_by(text: str) -> str:
    unknown = [name for name in text.split(",") if name not in _GROUPS]
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(_GROUPS)}")
    return text


_PURCHASES: Final = "purchases"
"""The measure of a difference within the records."""
_DAY: Final = _check_form("a day, YYYY-MM-DD, as 2026-01-31", "%Y-%m-%d")
TenantOption = Annotated[str | None, typer.Option("--tenant", help="One tenant. Default: all.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        callback=_DAY,
        metavar="DAY",
        help="The first day, UTC. Default: the first of the month.",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        callback=_DAY,
        metavar="DAY",
        help="The last day, UTC. Default: today.",
    ),
]
MonthOption = Annotated[
    str | None,
    typer.Option(
        "--month",
        callback=_check_form("a month, YYYY-MM, as 2026-01", "%Y-%m"),
        metavar="MONTH",
        help="One month, instead of --from and --to.",
    ),
]
LastOption = Annotated[
    str | None, typer.Option("--last", metavar="DAYS", help="The last days, today included, as 30d, instead of both.")
]
TagOption = Annotated[
    str | None,
    typer.Option(
        "--tag", metavar="KEY[=VALUE]", help="The tag for --by tag; with a value, only requests that have it."
    ),
]
ByOption = Annotated[
    str,
    typer.Option(
        "--by",
        callback=_parse_by,
        metavar="GROUP",
        help=f"Group by {', '.join(_GROUPS)}, or several: day,model.",
    ),
]
FormatOption = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Output format.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", help="Write to this file, completely or not at all. Default: standard output."),
]


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
    query = _query(tenant, first, last, month, days) | {"by": by, "tag": tag}
    pages = list(_pages(AdminApi(url, admin_key, json), query))
    response = pages[0] | {"data": [row for each in pages for row in rows(each)], "next_cursor": None}
    groups = list(dict.fromkeys(by.split(",")))
    if json or format_ == "json":
        print_json(response)
    elif format_ == "csv":
        _write_csv(groups, rows(response))
    else:
        _print_report(groups, response)


@app.command("export")
def export(
    tenant: TenantOption = None,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
) -> None:
    """Export every request's record as JSON Lines, oldest day first."""
    api, done = AdminApi(url, admin_key, json=True), 0
    with _writing(output) as file, progressing("exporting", "records", prints=output is None) as progress:
        for response in _pages(api, _query(tenant, first, last, month, days), "records"):
            for record in rows(response):
                print_json(record, file, (",", ":"))
                done += 1
            progress(done, number(response, "total"))
    print(f"{done} records{f' in {output}' if output else ''}", file=sys.stderr)


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
    query = _query(tenant, first, last, month, days)
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


def _query(
    tenant: str | None, first: str | None, last: str | None, month: str | None, days: str | None
) -> dict[str, object]:
    return {"tenant": tenant, "from": first, "to": last, "month": month, "last": days}


def _pages(api: AdminApi, query: dict[str, object], *path: str) -> Iterator[Document]:
    """Yields every page. The cursor encodes the query."""
    while True:
        response = api.ask("GET", "usage", *path, query=query)
        yield response
        cursor = response.get("next_cursor")
        if not isinstance(cursor, str):
            return
        query = {"cursor": cursor}


def _write_csv(groups: Sequence[str], report: Sequence[Document]) -> None:
    writer = csv.writer(sys.stdout)  # CR LF line ends, as in RFC 4180, so cells with either are quoted
    writer.writerow([*groups, *_AMOUNTS])
    for row in report:
        texts = [_harmless(str(row.get(group))) for group in groups]
        writer.writerow([*texts, *(row.get(amount) for amount in _AMOUNTS)])


def _harmless(text: str) -> str:
    """Escapes text that a spreadsheet would evaluate, and terminal control characters."""
    text = "".join(one if one.isprintable() or one in "\t\r\n" else "?" for one in text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _print_report(groups: Sequence[str], response: Document) -> None:
    amounts_total = response.get("total")
    total = amounts_total if isinstance(amounts_total, dict) else {}
    amounts = [name for name in _AMOUNTS if name not in _RARE or total.get(name)]
    names = [*groups, *amounts]
    decimals = max(_decimals(row) for row in [*rows(response), total])
    print(printable(f"{response.get('from')} to {response.get('to')}, UTC"))
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
    shown = ["-" if row.get(name) == "" else row.get(name) for name in names]
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


@contextmanager
def _writing(output: Path | None) -> Iterator[TextIO]:
    """Opens standard output, or a file that is renamed only when complete."""
    if output is None:
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    try:
        part.unlink(missing_ok=True)  # a leftover may have another mode
        with open(part, "x", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except OSError as error:
        fail(f"cannot write {output} ({error.strerror}); check --output")
    finally:
        part.unlink(missing_ok=True)
