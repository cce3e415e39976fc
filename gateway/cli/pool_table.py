"""The table of `imagegate pool list`: upstreams, accounts and keys as a tree, within the terminal's width.

A line has a name, a state, and then either amounts in columns (accounts) or a note that may wrap.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from gateway.cli.client import Document, number, rows
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
    lines = [line for upstream in upstreams for line in _lines_of(upstream, now_s, every_key=every_key)]
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


def _lines_of(upstream: Document, now_s: int, *, every_key: bool) -> Iterator[_Line]:
    calls, retries = number(upstream, "calls_last_minute"), number(upstream, "retries_last_minute")
    notes = [*why(upstream, now_s), f"{number(upstream, 'waiting')} waiting"]
    if batch_lines := number(upstream, "waiting_batch"):
        notes.append(f"{batch_lines} batch lines waiting")
    if calls:
        notes.append(f"{calls} calls in the last minute" + (f", {retries} of them retries" if retries else ""))
    yield _Line(0, _text(upstream, "name"), _text(upstream, "state"), note=", ".join(notes))
    for account in rows(upstream, "accounts"):
        yield from _account_lines(account, now_s)
        for key in rows(account, "keys"):
            if every_key or key.get("state") != "ready" or key.get("error_code"):
                notes = [*why(key, now_s)]
                if every_key:
                    notes += [_text(key, "fingerprint"), *([] if key.get("declared") else ["added at run time"])]
                yield _Line(2, _text(key, "key"), _text(key, "state"), note=", ".join(notes))


def _account_lines(account: Document, now_s: int) -> Iterator[_Line]:
    names = ("requests_per_minute", "images_per_minute", "concurrency")
    used = (f"{short(number(account, name, 'used'))}/{short(number(account, name, 'limit'))}" for name in names)
    dollars = _text(account, "spend_today_usd")
    if len(dollars) > len("12.345678"):
        dollars = f"{Decimal(dollars):.2f}"
    amounts = (*used, short(number(account, "images_today")), dollars)
    yield _Line(1, _text(account, "account"), _text(account, "state"), amounts)
    notes = [*why(account, now_s)]
    # Estimated limits may be below the configured ones, as the account may have other users.
    for name, what in (("requests_per_minute", "requests a minute"), ("concurrency", "concurrent calls")):
        if number(account, name, "now") < number(account, name, "limit"):
            notes.append(f"estimated limit: {number(account, name, 'now')} {what}")
    if notes:
        yield _Line(1, "", "", note=", ".join(notes))


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


def short(amount: int) -> str:
    """Formats a number up to a billion in at most four characters."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if amount >= 10 * size or (amount >= size and amount % size == 0):
            return f"{amount // size}{letter}"
    return str(amount)


def _text(thing: Document, name: str) -> str:
    return printable(str(thing.get(name) or ""))
