"""Loads and validates settings from a file and environment variables."""

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from gateway.config.environment import override
from gateway.config.problems import ENV_PREFIX, Problems
from gateway.config.schema import Settings
from gateway.config.toml_lines import TomlLines
from gateway.config.upstreams import Problem, SettingsError
from gateway.config.validation import read_table
from gateway.domain.tenants import RESERVED

_SYNTAX_ERRORS_MAX: Final = 20
_SYNTAX_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SYNTAX: Final = (
    ("Invalid value", "invalid value; put text in quotes, and write true and false in lower case"),
    ("Cannot overwrite", "this name is already set above; remove one"),
    ("Cannot declare", "this table is already above; merge the two"),
    ("Cannot mutate", "this table is already complete above; merge the two"),
    ("Illegal character '\\n'", "a quote at the end of the line is missing"),
    ("Expected newline", "unexpected characters; put text in quotes, and each setting on a line of its own"),
    ("Unterminated string", "quotes at the end of this text are missing"),
    ('Expected "\'"', "a quote at the end of the line is missing"),
    ("Unclosed", "a closing bracket is missing, or a comma"),
)
"""Beginnings of tomllib's messages, and what they mean. None repeats a value."""


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Loads the settings of a file and the environment. Raises: SettingsError."""
    problems = Problems()
    settings = read_file(path, environ, problems)
    problems.refuse(environ, config_path(path, environ))
    return settings


def config_path(path: str | None, environ: Mapping[str, str]) -> str:
    """Returns the file to read: `path`, else `IMAGEGATE_CONFIG`, else config/imagegate.toml."""
    return path or environ.get(f"{ENV_PREFIX}CONFIG") or "config/imagegate.toml"


def from_document(document: dict[str, object], environ: Mapping[str, str], source: str) -> Settings:
    """Validates a parsed document. Raises: SettingsError that names `source`."""
    problems = Problems()
    settings = _read_document(document, environ, problems)
    problems.refuse(environ, source)
    return settings


def read_file(path: str | None, environ: Mapping[str, str], problems: Problems) -> Settings:
    """Reads the settings of a file and the environment, without what is invalid.

    Raises: SettingsError if the file cannot be read.
    """
    path = config_path(path, environ)
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}). Set --config or IMAGEGATE_CONFIG to a readable file."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: invalid TOML: it is not UTF-8. Save it as UTF-8.") from error
    try:
        document = _parse_toml(text, problems)
    except RecursionError:
        text = f"{path}: invalid TOML: its tables or lists are nested too deeply. Remove the inner ones."
        raise SettingsError(text) from None
    return _read_document(document, environ, problems)


def _parse_toml(text: str, problems: Problems) -> dict[str, Any]:
    """Parses a file, without the lines that are no TOML."""
    for _ in range(_SYNTAX_ERRORS_MAX):
        try:
            return tomllib.loads(text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            problems.is_partial = True
            text = _cut_out(text, str(error), problems)
    return {}


def _cut_out(text: str, message: str, problems: Problems) -> str:
    """Adds the mistake that a message of tomllib reports. Returns: the text with empty lines in its place."""
    lines, place = text.split("\n"), _SYNTAX_PLACE.search(message)
    line = int(place[1]) if place and place[1] else 0
    is_open = not line or message.startswith("Unclosed")
    start = TomlLines(text).last if is_open else line
    end = line - 1 if is_open and line > start else start
    if not line or lines[start - 1].lstrip().startswith("["):  # the rest of the table would belong to another
        heads = (at for at in range(start, len(lines)) if lines[at].lstrip().startswith("["))
        end = next(heads, len(lines))
    reason = next((words for sign, words in _SYNTAX if message.startswith(sign)), _SYNTAX_PLACE.sub("", message))
    column = f" (column {place[2]})" if place and not is_open else ""
    problems.found.append(Problem(f"invalid TOML: {reason}{column}", f"line {start}"))
    return "\n".join([*lines[: start - 1], *[""] * (end - start + 1), *lines[end:]])


def _read_document(document: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> Settings:
    document = copy.deepcopy(document)
    override(document, environ, problems)
    settings: Settings = read_table(document, Settings, "", problems)
    if any("; did you mean `" in text for text, _ in problems.found):  # of tables that a misspelled one tore apart
        torn = tuple(words for start, words in _SYNTAX if start.startswith("Cannot"))
        problems.found[:] = [problem for problem in problems.found if not any(words in problem.text for words in torn)]
    for path, reason in _find_problems(settings, problems):
        with problems.collecting():
            raise SettingsError(Problem(f"{path}: {reason}", path))
    return settings


def _find_problems(settings: Settings, problems: Problems) -> Iterable[tuple[str, str]]:
    """Yields the mistakes that types cannot express, each with its path."""
    yield from _twice((f"upstreams[{at}].name", one.name) for at, one in enumerate(settings.upstreams))
    for number, upstream in enumerate(settings.upstreams):
        where = f"upstreams[{number}].accounts"
        yield from _twice((f"{where}[{at}].name", one.name) for at, one in enumerate(upstream.accounts))
        for at, account in enumerate(upstream.accounts):
            yield from _twice((f"{where}[{at}].keys[{i}].name", key.name) for i, key in enumerate(account.keys))
    yield from _server_problems(settings)
    yield from _model_problems(settings, problems)
    endpoints = enumerate(settings.alerts.endpoints)
    yield from _twice((f"alerts.endpoints[{at}].name", endpoint.name) for at, endpoint in endpoints)
    yield from _twice((f"tenants[{at}].name", tenant.name) for at, tenant in enumerate(settings.tenants))
    for at, tenant in enumerate(settings.tenants):
        if tenant.name.startswith(RESERVED):
            reason = f"names that begin with '{RESERVED}' are those of deleted tenants; choose another"
            yield f"tenants[{at}].name", reason
    names = [(f"admin.keys[{at}].name", key.name) for at, key in enumerate(settings.admin.keys)]
    yield from _twice([("admin.key", "admin"), *names])
    for path, name in names:
        if name == "configuration":
            yield path, "the name 'configuration' is reserved for [[tenants]] in the audit; choose another"


def _model_problems(settings: Settings, problems: Problems) -> Iterable[tuple[str, str]]:
    names = []
    known = sorted(upstream.name for upstream in settings.upstreams)
    for at, model in enumerate(settings.models):
        names.append((f"models[{at}].id", model.id))
        names += [(f"models[{at}].aliases[{number}]", alias) for number, alias in enumerate(model.aliases)]
    yield from _twice(names)
    rates = enumerate(settings.exchange_rates)
    yield from _twice(((f"exchange_rates[{at}].since", f"{one.currency} {one.since}") for at, one in rates), "date")
    for at, model in enumerate(settings.models):
        changes = enumerate(model.price_changes)
        dates = (
            (f"models[{at}].price_changes[{number}].since", change.since.isoformat()) for number, change in changes
        )
        yield from _twice(dates, "date")
        for number, target in enumerate(model.targets):
            if target.upstream not in known and problems.is_known_to_lack("upstreams"):
                reason = f"unknown upstream '{target.upstream}'; expected one of {', '.join(known)}"
                yield f"models[{at}].targets[{number}].upstream", reason


def _server_problems(settings: Settings) -> Iterable[tuple[str, str]]:
    server, admin, metrics = settings.server, settings.admin, settings.metrics
    for at, origin in enumerate(server.cors_origins):
        if origin != "*" and not re.fullmatch(r"https?://[^/]*", origin):
            yield f"server.cors_origins[{at}]", "each item must be '*' or an origin, as 'https://app.example.org'"
    for at, proxy in enumerate(server.trusted_proxies):
        try:
            ip_network(proxy)
        except ValueError as error:
            yield f"server.trusted_proxies[{at}]", f"{error}; expected addresses or networks, as '10.0.0.0/8'"
    for name, table in (("admin", admin), ("metrics", metrics)):
        if table.port and table.port == server.port:
            yield f"{name}.port", f"{table.port} is already server.port; choose another, or 0 to share it"
    if admin.port and admin.port == metrics.port:
        yield "admin.port", f"{admin.port} is already metrics.port; choose another"
    if server.shutdown_timeout_s < settings.requests.deadline_s:
        reason = "must be at least requests.deadline_s, or a shutdown discards billed images"
        yield "server.shutdown_timeout_s", reason
    if server.shutdown_delay_s > server.shutdown_timeout_s:
        yield "server.shutdown_delay_s", "must not exceed server.shutdown_timeout_s, which includes it"


def _twice(places: Iterable[tuple[str, str]], what: str = "name") -> Iterable[tuple[str, str]]:
    """Yields each name that an earlier place has."""
    first: dict[str, str] = {}
    for path, name in places:
        if name in first:
            yield path, f"duplicate {what} '{name}', as {first[name]} has; each {what} must be unique"
        first.setdefault(name, path)
