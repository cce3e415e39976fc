"""The options that select usage, and the query that they make."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

_GROUPS: Final = (
    *("day", "hour", "month", "tenant", "cost_centre", "owner", "model", "key", "batch", "tag", "user", "upstream"),
    "charge_class",
)


def _check_form(expected: str, form: str) -> Callable[[str | None], str | None]:
    """Returns a callback that checks a date, and renders it as the server takes it."""

    def check(text: str | None) -> str | None:
        try:
            return text and datetime.strptime(text, form).replace(tzinfo=UTC).strftime(form)
        except ValueError:
            raise typer.BadParameter(f"expected {expected}, but got '{text}'") from None

    return check


def _parse_by(text: str | None) -> str | None:
    unknown = [name for name in text.split(",") if name not in _GROUPS] if text is not None else []
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(_GROUPS)}")
    return text


check_month: Final = _check_form("a month, YYYY-MM, as 2026-01", "%Y-%m")
check_day: Final = _check_form("a day, YYYY-MM-DD, as 2026-01-31", "%Y-%m-%d")
TenantOption = Annotated[str | None, typer.Option("--tenant", help="One tenant. Default: all.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        callback=check_day,
        metavar="DAY",
        help="The first day, in [metering] time_zone. Default: the first of the month.",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        callback=check_day,
        metavar="DAY",
        help="The last day, in [metering] time_zone. Default: today.",
    ),
]
MonthOption = Annotated[
    str | None,
    typer.Option(
        "--month",
        callback=check_month,
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
ModelOption = Annotated[str | None, typer.Option("--model", help="Only requests for this model.")]
KeyOption = Annotated[str | None, typer.Option("--key", metavar="ID", help="Only requests of this API key.")]
_BY: Final = typer.Option(
    "--by",
    callback=_parse_by,
    metavar="GROUP",
    help=f"Group by {', '.join(_GROUPS)}, or several: day,model.",
)
ByOption = Annotated[str, _BY]
OptionalByOption = Annotated[str | None, _BY]


def period_query(
    tenant: str | None, first: str | None, last: str | None, month: str | None, days: str | None
) -> dict[str, object]:
    return {"tenant": tenant, "from": first, "to": last, "month": month, "last": days}
