"""The options of commands that set limits and quotas, and how both are sent and shown."""

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Final

import typer

LIMITS: Final = {
    "requests_per_minute": "Requests in any 60 seconds",
    "images_per_minute": "Images in any 60 seconds",
    "concurrency": "Concurrent requests",
    "images_per_day": "Images in a calendar day",
    "images_per_month": "Images in a calendar month",
    "usd_per_month": "US dollars in a calendar month, as 50.00",
    "soft_usd_per_month": "US dollars in a calendar month that warn and refuse nothing",
}
_QUOTAS: Final = frozenset({"images_per_day", "images_per_month", "usd_per_month", "soft_usd_per_month"})
_MONEY: Final = frozenset({"usd_per_month", "soft_usd_per_month"})
_LIMIT_MAX: Final = 1_000_000_000
_NONE: Final = "none"


def limit_fields(document: dict[str, object]) -> list[tuple[str, object]]:
    """Returns names and values of limits and quotas, then their current usage and credits."""
    lines: list[tuple[str, object]] = []
    for part, prefix in (("limits", ""), ("quotas", ""), ("used", "used: "), ("credited", "credited: ")):
        if part == "used" and not lines:
            lines = [("limits", "none")]
        values = document.get(part)
        for name, value in values.items() if isinstance(values, dict) else ():
            if part != "credited" or value not in {0, "0.00"}:
                lines.append((prefix + name.replace("_", " ").replace("usd", "US dollars"), str(value)))
    return lines


def limits_document(limits: Mapping[str, object]) -> dict[str, object]:
    """Builds the admin API's fields of the limits that were set."""
    given = {name: _read_limit(name, text) for name, text in limits.items() if isinstance(text, str)}
    quotas = {name: value for name, value in given.items() if name in _QUOTAS}
    parts: dict[str, object] = {
        "quotas": quotas,
        "limits": {name: given[name] for name in given if name not in _QUOTAS},
    }
    return {name: part for name, part in parts.items() if part}


def _read_limit(name: str, text: str) -> int | str | None:
    """Raises: typer.BadParameter."""
    if text == _NONE:
        return None
    if name in _MONEY:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
            raise typer.BadParameter("expected US dollars with up to six decimals, as 50.00, or 'none'")
        return text
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _LIMIT_MAX:
        raise typer.BadParameter(f"expected an integer from 0 to {_LIMIT_MAX}, or 'none'")
    return int(text)


def _check_limit(parameter: typer.CallbackParam, text: str | None) -> str | None:
    if text is not None:
        _read_limit(str(parameter.name), text)
    return text


def parameter(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _limit_option(name: str, what: str) -> object:
    metavar, text = "USD" if name in _MONEY else "N", f"{what}; 'none' for no limit."
    return Annotated[str | None, typer.Option(metavar=metavar, callback=_check_limit, help=text, show_default=False)]


LIMIT_PARAMETERS: Final = tuple(parameter(name, None, _limit_option(name, what)) for name, what in LIMITS.items())
