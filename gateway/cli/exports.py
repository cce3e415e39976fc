"""`imagegate usage export` and `imagegate usage close`."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, Literal

import typer

from gateway.cli.client import (
    DEFAULT_URL,
    LONG_TIMEOUT_S,
    AdminApi,
    AdminKeyOption,
    Document,
    UrlOption,
    Yes,
    admin_command,
    rows,
)
from gateway.cli.contexts import confirm
from gateway.cli.output import ReportProgress, fail, minute, print_fields, print_table, printable, progressing
from gateway.cli.usage_options import (
    FromOption,
    KeyOption,
    LastOption,
    ModelOption,
    MonthOption,
    OptionalByOption,
    TagOption,
    TenantOption,
    ToOption,
    check_month,
    period_query,
)

if TYPE_CHECKING:
    import httpx

_LINES_HEADER: Final = "x-imagegate-lines"
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "--out", help="Write to this file, completely or not at all. Default: standard output."),
]
FileFormat = Annotated[
    Literal["jsonl", "csv", "focus"],
    typer.Option("--format", help="jsonl: every request; csv: usage by --by, or by day; focus: FOCUS 1.2 as CSV."),
]


def export(
    tenant: TenantOption = None,
    first: FromOption = None,
    last: ToOption = None,
    month: MonthOption = None,
    days: LastOption = None,
    format_: FileFormat = "jsonl",
    by: OptionalByOption = None,
    tag: TagOption = None,
    model: ModelOption = None,
    key: KeyOption = None,
    bom: Annotated[bool, typer.Option("--bom", help="Begin CSV with a byte order mark, for Excel.")] = False,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = "",
) -> None:
    """Export usage or every request's record, oldest day first."""
    query = period_query(tenant, first, last, month, days) | {"format": format_, "bom": "true" if bom else None}
    query |= {"by": by, "tag": tag, "model": model, "key": key}
    things = "records" if format_ == "jsonl" else "lines"
    api = AdminApi(url, admin_key, json=True)
    with (
        _writing(output) as file,
        api.download("usage", "export", query=query) as response,
        progressing("exporting", things, prints=output is None) as progress,
    ):
        lines = save(response, file, progress)
    print(f"{lines} {things}{f' in {output}' if output else ''}", file=sys.stderr)


def save(response: "httpx.Response", file: BinaryIO, progress: ReportProgress = lambda _done, _total: None) -> int:
    """Writes a file's body. A body that is not the file that the gateway announced ends the command.

    Returns: its number of lines.
    """
    digest, lines = hashlib.sha256(), 0
    announced = int(response.headers.get(_LINES_HEADER, 0))
    for block in response.iter_bytes():
        digest.update(block)
        lines += block.count(b"\n")
        file.write(block)
        progress(lines, announced)
    file.flush()
    etag = response.headers.get("etag", "")
    if lines != announced or (not etag.startswith("W/") and etag != f'"{digest.hexdigest()}"'):
        fail(f"the file is not complete: {lines} of {announced} lines arrived; run the command again")
    return lines


def close(
    api: AdminApi,
    month: Annotated[str | None, typer.Argument(metavar="MONTH", callback=check_month, help="As 2026-01.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify and show the month; close nothing.")] = False,
    shows_list: Annotated[bool, typer.Option("--list", help="List the closed months instead.")] = False,
    yes: Yes = False,
) -> None:
    """Close a month: verify it and store its proof. Later differences become corrections of the next period."""
    if shows_list:
        if month is not None:
            raise typer.BadParameter("give MONTH or --list, not both")
        return api.show(api.ask("GET", "usage", "closings"), _print_closings)
    if month is None:
        raise typer.BadParameter("give the MONTH to close, as 2026-01, or --list")
    if not dry_run:
        confirm(api.place, f"close the month {month}", yes=yes)
    body: Document = {"month": month, "dry_run": dry_run}
    answer = api.ask("POST", "usage", "closings", body=body, timeout_s=LONG_TIMEOUT_S)
    return api.show(answer, _print_closing)


def register(app: typer.Typer) -> None:
    app.command("export")(export)
    admin_command(app, "close")(close)


def _print_closings(answer: Document) -> None:
    columns = ("MONTH", "CLOSED", "BY", "TENANTS", "REQUESTS", "IMAGES", "USD")
    print_table(columns, [_row(one) for one in rows(answer)], empty="No month is closed.", numbers=4)


def _row(closing: Document) -> list[object]:
    closed = [closing.get("month"), minute(closing.get("closed_at")), closing.get("closed_by"), closing.get("tenants")]
    return closed + [_total(closing).get(name) for name in ("requests", "images", "usd")]


def _total(closing: Document) -> Document:
    total = closing.get("total")
    return total if isinstance(total, dict) else {}


def _print_closing(closing: Document) -> None:
    is_closed = bool(closing.get("closed_at"))
    shown = ("tenants", "records", "focus_sha256", "csv_sha256")
    print_fields(
        ("month", closing.get("month")),
        (
            "closed",
            f"{minute(closing.get('closed_at'))} by {closing.get('closed_by')}" if is_closed else "no, a dry run",
        ),
        *_total(closing).items(),
        *((name.replace("_", " "), closing.get(name)) for name in shown),
    )
    if not is_closed:
        print(printable(f"{closing.get('month')} can be closed."))


@contextmanager
def _writing(output: Path | None) -> Iterator[BinaryIO]:
    """Opens standard output, or a file that is renamed only when complete."""
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(f"{output.name}.part")
    try:
        part.unlink(missing_ok=True)  # a leftover may have another mode
        with open(part, "xb", opener=partial(os.open, mode=0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except OSError as error:
        fail(f"cannot write {output} ({error.strerror}); check --output")
    finally:
        part.unlink(missing_ok=True)
