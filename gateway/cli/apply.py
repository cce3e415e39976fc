"""`imagegate apply`: creates and changes tenants and keys as a file says, after showing the plan."""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from gateway.cli.client import AdminApi, Document, Yes, pages, rows
from gateway.cli.contexts import may
from gateway.cli.output import fail, print_json, printable

if TYPE_CHECKING:
    from gateway.cli.apply_file import ApplyFile, KeyEntry, TenantEntry

_EXACT: Final = ("tags", "required_tags", "models")
"""Fields whose value in the file is the whole value; limits and quotas that it omits stay unchanged."""
_KEYS_HEADER: Final = ("tenant", "label", "id", "key")


@dataclass(frozen=True, slots=True)
class Change:
    """One request of a plan. `differences` are before and after by field."""

    act: str
    tenant: str
    label: str = ""
    """Of a key, else ""."""
    key_id: str = ""
    body: Document = field(default_factory=dict)
    differences: Mapping[str, tuple[object, object]] = field(default_factory=dict)

    def __str__(self) -> str:
        subject = f"key '{self.label}' of {self.tenant}" if self.label else f"tenant {self.tenant}"
        return f"{self.act:<8} {subject}"

    def describe(self) -> Document:
        differences = {name: {"before": had, "after": has} for name, (had, has) in self.differences.items()}
        return {"act": self.act, "tenant": self.tenant, "key": self.label or None, "fields": differences}


def apply(
    api: AdminApi,
    file: Annotated[str, typer.Option("-f", "--file", help="The file: TOML, or JSON if it ends in .json.")],
    prune: Annotated[bool, typer.Option("--prune", help="Disable tenants that the file does not have.")] = False,
    keys_out: Annotated[
        str, typer.Option(metavar="FILE", help="Write new keys to this new file instead of standard output.")
    ] = "",
    yes: Yes = False,
) -> None:
    """Create and change tenants and keys as a file says, after showing the plan. Twice changes nothing.

    A field that the file omits stays unchanged, and nothing is deleted. A key is identified by its label. The plan is
    on standard error. Standard output has the new keys, each shown only once.
    """
    from gateway.cli.apply_file import ApplyFile, FileError

    try:
        wanted = ApplyFile(file)
    except FileError as error:
        fail(str(error))
    changes, unchanged = _plan(api, wanted, is_pruning=prune)
    _print_plan(changes, unchanged)
    made: list[tuple[object, ...]] = []
    if changes and not may(api.place, "make these changes", yes=yes):
        fail("nothing was changed")
    try:
        with _keys_file(keys_out if changes else "", is_shown=not api.json) as write:
            for number, change in enumerate(changes):
                typer.echo(printable(f"{number + 1}/{len(changes)} {change}"), err=True)
                answer = _make(api, change)
                if change.label and change.act == "create":
                    row = (change.tenant, change.label, answer.get("id"), answer.get("key"))
                    made.append(row)
                    write(row)
    finally:  # keys are shown only once, also if a later change fails
        if api.json:
            keys = [] if keys_out else [dict(zip(_KEYS_HEADER, row, strict=True)) for row in made]
            print_json({"plan": [change.describe() for change in changes], "unchanged": unchanged, "keys": keys})


def _plan(api: AdminApi, file: "ApplyFile", *, is_pruning: bool) -> tuple[list[Change], int]:
    """Returns the changes in order, and the number of tenants and keys that stay."""
    existing = {str(tenant.get("name")): tenant for tenant in rows(pages(api, "tenants", query={}))}
    changes: list[Change] = []
    mistakes: list[str] = []
    count = 0
    for at, entry in enumerate(file.tenants):
        count += 1 + len(entry.keys)
        had = existing.get(entry.name)
        if had is None and "renamed" in (problem := api.find_problem("tenants", entry.name)):
            mistakes.append(file.place(f"tenants[{at}].name", f"{problem} Change it in the file."))
        changes += _tenant_change(entry, had)
        keys = rows(api.ask("GET", "tenants", entry.name, "keys")) if had and entry.keys else []
        for number, key in enumerate(entry.keys):
            same = [one for one in keys if one.get("label") == key.label]
            if len(same) > 1:
                path = f"tenants[{at}].keys[{number}].label"
                mistakes.append(file.place(path, f"{len(same)} keys of '{entry.name}' have the label '{key.label}'"))
            changes += _key_change(entry.name, key, same[0] if same else None)
    if mistakes:
        fail("\n".join(mistakes))
    unchanged = count - len(changes)
    names = {entry.name for entry in file.tenants}
    for name, had in existing.items() if is_pruning else ():
        if name not in names and not had.get("disabled") and not had.get("declared"):
            changes.append(Change("disable", name, body={"disabled": True}, differences={"disabled": (False, True)}))
    return changes, unchanged


def _tenant_change(entry: "TenantEntry", had: Document | None) -> Iterator[Change]:
    document = _document(entry)
    document.pop("keys", None)
    if had is None:
        yield Change("create", entry.name, body=document, differences=_differences({}, document))
    elif differences := _differences(had, document):
        act = "disable" if list(differences) == ["disabled"] and document["disabled"] else "update"
        yield Change(act, entry.name, body=_patch(had, document, differences), differences=differences)


def _key_change(tenant: str, key: "KeyEntry", had: Document | None) -> Iterator[Change]:
    from gateway.cli.apply_file import is_expired

    document = _document(key)
    if had is None:
        if not is_expired(key):
            yield Change("create", tenant, key.label, body=document, differences=_differences({}, document))
    elif differences := _differences(had, document):
        body = _patch(had, document, differences)
        yield Change("update", tenant, key.label, str(had.get("id")), body, differences)


def _document(entry: object) -> Document:
    import msgspec

    document = msgspec.to_builtins(entry)
    return document if isinstance(document, dict) else {}


def _differences(had: Document, wanted: Document, prefix: str = "") -> dict[str, tuple[object, object]]:
    """Returns before and after of each field that changes."""
    found: dict[str, tuple[object, object]] = {}
    for name, value in wanted.items():
        before = had.get(name)
        if isinstance(value, dict) and name not in _EXACT:
            found |= _differences(before if isinstance(before, dict) else {}, value, f"{name}.")
        elif _comparable(before, name) != _comparable(value, name):
            found[prefix + name] = (before, value)
    return found


def _comparable(value: object, name: str) -> object:
    if isinstance(value, list):
        return sorted(set(value))
    if name.startswith(("usd", "soft_usd")) and isinstance(value, str):
        return Decimal(value)
    return value if value not in ("", [], {}) or name == "models" else None


def _patch(had: Document, wanted: Document, differences: Mapping[str, object]) -> Document:
    """Returns the merge patch: the fields that change, and null for tags that the file does not have."""
    patch = {name: value for name, value in wanted.items() if any(key.split(".")[0] == name for key in differences)}
    tags, before = patch.get("tags"), had.get("tags")
    if isinstance(tags, dict) and isinstance(before, dict):
        patch["tags"] = dict.fromkeys(before) | tags
    return patch


def _make(api: AdminApi, change: Change) -> Document:
    if change.act != "create":
        path = ("keys", change.key_id) if change.label else ("tenants", change.tenant)
        return api.ask("PATCH", *path, body=change.body)
    made: tuple[str, ...] = ("tenants", change.tenant, "keys") if change.label else ("tenants",)
    return api.ask("POST", *made, body=change.body)


def _print_plan(changes: list[Change], unchanged: int) -> None:
    for change in changes:
        typer.echo(printable(str(change)), err=True)
        for name, (had, has) in change.differences.items() if change.act != "disable" else ():
            if name not in {"name", "label"}:
                before = "" if change.act == "create" else f"{_shown(had)} -> "
                typer.echo(printable(f"           {name}: {before}{_shown(has)}"), err=True)
    typer.echo(f"{len(changes)} to change, {unchanged} unchanged.", err=True)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, "") else str(value)


@contextmanager
def _keys_file(path: str, *, is_shown: bool) -> Iterator[Callable[[tuple[object, ...]], None]]:
    """Yields what writes a new key at once, so that none is lost if a later change fails."""
    stream: TextIO | None = sys.stdout if is_shown else None
    if path:
        try:
            stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
        except FileExistsError:
            fail(f"{path} exists already; name a new file for the new keys")
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror}")
    has_header = False

    def write(row: tuple[object, ...]) -> None:
        nonlocal has_header
        if stream:
            csv.writer(stream, lineterminator="\n").writerows([row] if has_header else [_KEYS_HEADER, row])
            stream.flush()
        has_header = True

    try:
        yield write
    finally:
        if path and stream:
            stream.close()
