"""Shared options: the admin API's address and key, limits and quotas."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import typer

from gateway.cli.client import DEFAULT_URL, AdminApi, Document

UrlOption = Annotated[
    str, typer.Option("--url", envvar="IMAGEGATE_URL", help="URL of the admin API.", show_default=True)
]
AdminKeyOption = Annotated[
    str,
    typer.Option(
        "--admin-key",
        envvar="IMAGEGATE_ADMIN_KEY",
        help="The admin key. Other users can see it in the process list; prefer the variable.",
        show_default=False,
    ),
]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's response.")]
_LIMITS: Final = {
    "requests_per_minute": "Requests in any 60 seconds",
    "images_per_minute": "Images in any 60 seconds",
    "concurrency": "Concurrent requests",
    "images_per_day": "Images in a calendar day (UTC)",
    "images_per_month": "Images in a calendar month (UTC)",
    "usd_per_month": "US dollars in a calendar month (UTC), as 50.00",
}
_QUOTAS: Final = frozenset({"images_per_day", "images_per_month", "usd_per_month"})
_LIMIT_MAX: Final = 1_000_000_000
_NONE: Final = "none"

Command = Callable[..., None]


def admin_command(app: typer.Typer, name: str, short_help: str | None = None) -> Callable[[Command], Command]:
    """Registers a command that calls the admin API, with the options that all of these share.

    Its parameter `api` stands for --url, --admin-key and --json; a parameter `limits` for the options of _LIMITS.
    """

    def register(command: Command) -> Command:
        parameters = inspect.signature(command).parameters
        shared = [*(_LIMIT_PARAMETERS if "limits" in parameters else ()), *_API_PARAMETERS]

        def run(**arguments: object) -> None:
            api = AdminApi(str(arguments.pop("url")), str(arguments.pop("admin_key")), bool(arguments.pop("json")))
            if "limits" in parameters:
                arguments["limits"] = _limits_document({limit: arguments.pop(limit) for limit in _LIMITS})
            command(api=api, **arguments)

        own = [parameter for parameter in parameters.values() if parameter.name not in {"api", "limits"}]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined] # typer reads it
        run.__doc__ = command.__doc__
        app.command(name, short_help=short_help)(run)
        return command

    return register


def limit_fields(document: Document) -> list[tuple[str, object]]:
    """Returns names and values of limits and quotas, then their current usage."""
    lines: dict[str, list[tuple[str, object]]] = {}
    for part in ("limits", "quotas", "used"):
        values = document.get(part)
        prefix = "used: " if part == "used" else ""
        named = values.items() if isinstance(values, dict) else ()
        lines[part] = [
            (prefix + name.replace("_", " ").replace("usd", "US dollars"), str(value)) for name, value in named
        ]
    return (lines["limits"] + lines["quotas"] or [("limits", "none")]) + lines["used"]


def _limits_document(limits: Mapping[str, object]) -> Document:
    """Builds the admin API's fields of the limits that were set."""
    given = {name: _read_limit(name, text) for name, text in limits.items() if isinstance(text, str)}
    quotas = {name: value for name, value in given.items() if name in _QUOTAS}
    parts: Document = {"quotas": quotas, "limits": {name: given[name] for name in given if name not in _QUOTAS}}
    return {name: part for name, part in parts.items() if part}


def _read_limit(name: str, text: str) -> int | str | None:
    """Raises: typer.BadParameter."""
    if text == _NONE:
        return None
    if name == "usd_per_month":
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


def _parameter(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _limit_option(name: str, what: str) -> object:
    metavar, text = "USD" if name == "usd_per_month" else "N", f"{what}; 'none' for no limit."
    return Annotated[str | None, typer.Option(metavar=metavar, callback=_check_limit, help=text, show_default=False)]


_LIMIT_PARAMETERS: Final = tuple(_parameter(name, None, _limit_option(name, what)) for name, what in _LIMITS.items())
_API_PARAMETERS: Final = (
    _parameter("url", DEFAULT_URL, UrlOption),
    _parameter("admin_key", "", AdminKeyOption),
    _parameter("json", False, _JsonOption),
)
