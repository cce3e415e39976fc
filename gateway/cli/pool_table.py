"""The table of `imagegate pool list`: upstreams, accounts and keys as a tree, within the terminal's width.

A line has a name, a state, and then either amounts in columns (accounts) or a note that may wrap.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from gateway.cli.client import Document, rows
from gateway.cli.output import printable

_HEADINGS: Final = ("REQ/MIN", "IMG/MIN", "IN FLIGHT", "IMG/DAY", "USD/DAY")
_GAP: Final = "  "
_NAME_MIN: Final = 12
_STEP: Final = 2
"""Columns of indentation per level."""
_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class _Line:
    depth: int
    name: str
    state: str
    amounts: tuple[str, ...] = ()
    note: str = ""


def render_pool(upstreams: Sequence[Document], now_s: int, width: int, *, every_key: bool) -> list[str]:
    """Renders the tree within `width` columns, at least 80. Long names are shortened in the middle."""
    lines = [line for upstream in upstreams for line in _upstream(upstream, now_s, every_key=every_key)]
    columns = [
        max(map(len, column)) for column in zip(_HEADINGS, *filter(None, (line.amounts for line in lines)), strict=True)
    ]
    states = max(len(line.state) for line in [*lines, _Line(0, "", "STATE")])
    names = max(_STEP * line.depth + len(line.name) for line in [*lines, _Line(0, "NAME", "")])
    room = width - states - sum(columns) - len(_GAP) * (1 + len(columns))
    names = min(names, max(_NAME_MIN, room))
    heading = _Line(0, "NAME", "STATE", _HEADINGS)
    return [text for line in (heading, *lines) for text in _texts(line, names, states, columns, width)]


def _texts(line: _Line, names: int, states: int, columns: Sequence[int], width: int) -> Iterator[str]:
    indent = " " * _STEP * line.depth
    head = f"{indent + cut(line.name, names - len(indent)):<{names}}{_GAP}{line.state:<{states}}"
    if line.amounts:
        amounts = (f"{amount:>{column}}" for amount, column in zip(line.amounts, columns, strict=True))
        yield _GAP.join([head, *amounts])
        return
    first, *continuations = textwrap.wrap(line.note, width - len(head) - len(_GAP), break_on_hyphens=False) or [""]
    yield f"{head}{_GAP}{first}".rstrip()
    for continuation in continuations:
        yield " " * (len(head) + len(_GAP)) + continuation


def cut(name: str, width: int) -> str:
    """Shortens a name longer than `width` in the middle."""
    if len(name) <= width:
        return name
    front = width // 2
    return f"{name[:front]}…{name[len(name) - (width - front - 1) :]}"


def _upstream(upstream: Document, now_s: int, *, every_key: bool) -> Iterator[_Line]:
    calls, retries = _number(upstream, "calls_last_minute"), _number(upstream, "retries_last_minute")
    notes = [*why(upstream, now_s), f"{_number(upstream, 'waiting')} waiting"]
    notes += (
        [f"{calls} calls in the last minute" + (f", {retries} of them retries" if retries else "")] if calls else []
    )
    yield _Line(0, _text(upstream, "name"), _text(upstream, "state"), note=", ".join(notes))
    for account in rows(upstream, "accounts"):
        yield from _account(account, now_s)
        for key in rows(account, "keys"):
            if every_key or key.get("state") != "ready" or key.get("error_code"):
                yield _key(key, now_s, with_fingerprint=every_key)


def _account(account: Document, now_s: int) -> Iterator[_Line]:
    yield _Line(
        1,
        _text(account, "account"),
        _text(account, "state"),
        (
            *(_used(account, name) for name in ("requests_per_minute", "images_per_minute", "concurrency")),
            short(_number(account, "images_today")),
            _dollars(_text(account, "spend_today_usd")),
        ),
    )
    notes = [*why(account, now_s), *_estimates(account)]
    if notes:
        yield _Line(1, "", "", note=", ".join(notes))


def _estimates(account: Document) -> Iterator[str]:
    """Yields estimated limits below the configured ones, as the account may have other users."""
    for name, what in (("requests_per_minute", "requests a minute"), ("concurrency", "concurrent calls")):
        rate = _part(account, name)
        if _number(rate, "now") < _number(rate, "limit"):
            yield f"estimated limit: {_number(rate, 'now')} {what}"


def _key(key: Document, now_s: int, *, with_fingerprint: bool) -> _Line:
    notes = list(why(key, now_s))
    if with_fingerprint:
        notes += [_text(key, "fingerprint"), *([] if key.get("declared") else ["added at run time"])]
    return _Line(2, _text(key, "key"), _text(key, "state"), note=", ".join(notes))


def why(thing: Document, now_s: int) -> Iterator[str]:
    """Yields why an upstream, account or key is not ready, for how long, and until when."""
    since, until, state = thing.get("since"), thing.get("until"), thing.get("state")
    if error_code := thing.get("error_code"):
        yield printable(f"{error_code} (only {thing['model']})" if thing.get("model") else str(error_code))
    if held_by := thing.get("held_by"):
        yield printable(f"by {held_by}")
    if isinstance(since, int):
        yield f"for {span(now_s - since)}"
    if state == "half_open":
        yield "one request tries it"
    elif isinstance(until, int) and until > now_s:
        yield f"{'tried' if state == 'quarantined' else 'available'} within {span(until - now_s)}"


def span(seconds: int) -> str:
    """Formats a duration in its largest whole unit."""
    size, unit = next(((size, unit) for size, unit in _SPANS if seconds >= size), _SPANS[-1])
    return f"{max(0, seconds) // size} {unit}"


def short(number: int) -> str:
    """Formats a number up to a billion in at most four characters."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= 10 * size or (number >= size and number % size == 0):
            return f"{number // size}{letter}"
    return str(number)


def _used(account: Document, name: str) -> str:
    part = _part(account, name)
    return f"{short(_number(part, 'used'))}/{short(_number(part, 'limit'))}"


def _dollars(text: str) -> str:
    return text if len(text) <= len("12.345678") else f"{Decimal(text):.2f}"


def _part(thing: Document, name: str) -> Document:
    value = thing.get(name)
    return value if isinstance(value, dict) else {}


def _number(thing: Document, name: str) -> int:
    value = thing.get(name)
    return value if isinstance(value, int) else 0


def _text(thing: Document, name: str) -> str:
    return printable(str(thing.get(name) or ""))
