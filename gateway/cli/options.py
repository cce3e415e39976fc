"""Limits and quotas as options: the same for tenants and for single keys."""

import re
from typing import Annotated

import typer

from gateway.cli.client import Document

_LIMIT_MAX = 1_000_000_000
_NONE = "none"


def _integer(text: str) -> int | None:
    if text == _NONE:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _LIMIT_MAX:
        raise typer.BadParameter(f"give an integer from 0 to {_LIMIT_MAX}, or 'none'")
    return int(text)


def _money(text: str) -> str | None:
    if text == _NONE:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise typer.BadParameter("give US dollars with up to six decimals, as 50.00, or 'none'")
    return text


def _checked(text: str | None) -> str | None:
    if text is not None:
        _integer(text)
    return text


def _checked_money(text: str | None) -> str | None:
    if text is not None:
        _money(text)
    return text


def _limit(flag: str, what: str) -> object:
    return typer.Option(flag, metavar="N", callback=_checked, help=f"{what}; 'none' for no limit.", show_default=False)


RequestsPerMinute = Annotated[str | None, _limit("--requests-per-minute", "Requests in any 60 seconds")]
ImagesPerMinute = Annotated[str | None, _limit("--images-per-minute", "Images in any 60 seconds")]
Concurrency = Annotated[str | None, _limit("--concurrency", "Requests at once")]
ImagesPerDay = Annotated[str | None, _limit("--images-per-day", "Images in a calendar day (UTC)")]
ImagesPerMonth = Annotated[str | None, _limit("--images-per-month", "Images in a calendar month (UTC)")]
UsdPerMonth = Annotated[
    str | None,
    typer.Option(
        "--usd-per-month",
        metavar="USD",
        callback=_checked_money,
        help="US dollars in a calendar month (UTC), as 50.00; 'none' for no limit.",
        show_default=False,
    ),
]


def limits_document(
    requests_per_minute: str | None,
    images_per_minute: str | None,
    concurrency: str | None,
    images_per_day: str | None,
    images_per_month: str | None,
    usd_per_month: str | None,
) -> Document:
    """What was given, as the admin API takes it."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "images_per_minute": images_per_minute,
        "concurrency": concurrency,
    }
    quotas = {"images_per_day": images_per_day, "images_per_month": images_per_month}
    given: Document = {
        "limits": {name: _integer(text) for name, text in limits.items() if text is not None},
        "quotas": {name: _integer(text) for name, text in quotas.items() if text is not None}
        | ({} if usd_per_month is None else {"usd_per_month": _money(usd_per_month)}),
    }
    return {name: document for name, document in given.items() if document}


def limit_fields(document: Document) -> list[tuple[str, str]]:
    """Limits, quotas and what of them is used, one a line."""
    lines = [(_words(name), str(value)) for part in ("limits", "quotas") for name, value in _items(document, part)]
    used = [(f"used: {_words(name)}", str(value)) for name, value in _items(document, "used")]
    return (lines or [("limits", "none")]) + used


def _items(document: Document, part: str) -> list[tuple[str, object]]:
    found = document.get(part)
    return [(str(name), value) for name, value in found.items()] if isinstance(found, dict) else []


def _words(name: str) -> str:
    return name.replace("_", " ").replace("usd", "US dollars")
