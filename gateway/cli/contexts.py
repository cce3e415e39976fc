"""`imagegate context`: names for gateways, such as staging and production.

A context has the URL of an admin API and where its admin key is, never the key. It applies to the commands of the
admin API by standing in for IMAGEGATE_URL and IMAGEGATE_ADMIN_KEY.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.output import fail, print_table

app = typer.Typer(help="Name gateways, such as staging and production.", no_args_is_help=True)

URL: Final = "IMAGEGATE_URL"
_KEY: Final = "IMAGEGATE_ADMIN_KEY"
VARIABLE: Final = "IMAGEGATE_CONTEXT"
_WITHOUT: Final = frozenset({"demo", "serve", "check", "simulator", "conformance", "context", "me"})
"""Commands that do not call an admin API."""
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


@dataclass(frozen=True, slots=True)
class Context:
    """One gateway."""

    name: str
    url: str
    admin_key_env: str = ""
    admin_key_file: str = ""
    production: bool = False

    def __str__(self) -> str:
        return f"context '{self.name}'{' (production)' if self.production else ''} at {self.url}"

    def read_key(self) -> str:
        if self.admin_key_env:
            if key := os.environ.get(self.admin_key_env, "").strip():
                return key
            fail(f"{self}: the environment variable {self.admin_key_env} is not set or empty")
        try:
            key = Path(self.admin_key_file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            fail(f"{self}: the file {self.admin_key_file} cannot be read: {reason}")
        return key or fail(f"{self}: the file {self.admin_key_file} is empty")


@dataclass(frozen=True, slots=True)
class Contexts:
    """The file of contexts."""

    path: Path
    current: str = ""
    by_name: Mapping[str, Context] = field(default_factory=dict)

    def find(self, name: str) -> Context:
        known = ", ".join(sorted(self.by_name)) or "none; add one with `imagegate context add`"
        return self.by_name.get(name) or fail(f"there is no context '{name}'; known: {known}")

    def save(self) -> None:
        """Replaces the file, which only its user can read."""
        lines = [f"current = {_quoted(self.current)}"] if self.current else []
        for name, context in sorted(self.by_name.items()):
            lines.append(f"\n[contexts.{_quoted(name)}]")
            values = {one.name: getattr(context, one.name) for one in fields(context) if one.name != "name"}
            lines += [f"{key} = {_quoted(value)}" for key, value in values.items() if value]
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.path.parent, delete=False) as file:
                file.write("\n".join(lines).strip() + "\n")  # a temporary file has the mode 0600
            Path(file.name).replace(self.path)
        except OSError as error:
            fail(f"{self.path} cannot be written: {error.strerror}")


def load() -> Contexts:
    """Reads the file of contexts, if there is one."""
    import tomllib

    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = home / "imagegate" / "contexts.toml"
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        found = {name: _read_context(name, values) for name, values in document.get("contexts", {}).items()}
    except FileNotFoundError:
        return Contexts(path)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        fail(f"{path} is not a file of contexts ({error}); correct or remove it")
    return Contexts(path, str(document.get("current", "")), found)


def _read_context(name: str, values: Mapping[str, object]) -> Context:
    """Raises: TypeError if it is no context."""
    for key, value in values.items():
        expected = bool if key == "production" else str
        if not isinstance(value, expected):
            raise TypeError(f"contexts.{name}.{key}: expected {'true or false' if expected is bool else 'a text'}")
    return Context(name, **values)  # type: ignore[arg-type] # checked above


def enter(context: typer.Context, name: str | None, arguments: Sequence[str]) -> None:
    """Makes the chosen context stand in for the variables of URL and admin key while a command runs.

    A context that is named precedes the variables. The variables, or --url, precede the current context: its key is
    never sent to another gateway's URL.
    """
    if {"-h", "--help"} & set(arguments):
        return
    if (command := context.invoked_subcommand) in _WITHOUT:
        if name:
            raise typer.BadParameter(f"--context does not apply to {command}, which does not call the admin API")
        return
    has_url = any(argument.split("=")[0] == "--url" for argument in arguments)
    if name and has_url:
        raise typer.BadParameter("--context and --url cannot be used together")
    named, variable = name or os.environ.get(VARIABLE, ""), os.environ.get(URL)
    if variable and named and not name:
        fail(f"{VARIABLE} and {URL} are both set; unset one, or use --context")
    if has_url or (variable and not named):
        return
    known = load()
    if not (wanted := named or known.current):
        return
    chosen = known.find(wanted)
    had = {variable: os.environ.get(variable) for variable in (URL, _KEY)}
    is_key_given = any(argument.split("=")[0] == "--admin-key" for argument in arguments)
    os.environ |= {URL: chosen.url} | ({} if is_key_given else {_KEY: chosen.read_key()})
    context.obj = chosen
    context.call_on_close(lambda: _restore(had))


def confirm(place: str, act: str, *, yes: bool) -> None:
    """Asks before what cannot be undone. Without a terminal, only --yes consents."""
    if not may(place, act, yes=yes, warning="This cannot be undone. "):
        fail("nothing was changed")


def may(place: str, act: str, *, yes: bool, warning: str = "") -> bool:
    """Asks, and names the place, which is a context. Fails without a terminal and --yes."""
    if yes:
        return True
    question = f"{act[0].upper()}{act[1:]}{f' in {place}' if place else ''}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        fail(f"{question}? {warning}There is no terminal to ask: to do it, repeat the command with --yes")
    return typer.confirm(f"{warning}{question}?", err=True)


def _restore(had: Mapping[str, str | None]) -> None:
    for variable, value in had.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def _quoted(value: object) -> str:
    """Renders a TOML value; strings are those of JSON."""
    return json.dumps(value)


Name = Annotated[str, typer.Argument(help="The context's name.")]


@app.command("add", short_help="Add a context, or replace it.")
def add(
    name: Name,
    url: Annotated[str, typer.Option("--url", help="URL of the admin API.")],
    admin_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the admin key.")
    ] = "",
    admin_key_file: Annotated[str, typer.Option(metavar="FILE", help="The file that holds the admin key.")] = "",
    production: Annotated[bool, typer.Option("--production", help="Mark it in questions and lists.")] = False,
) -> None:
    """Add a context, or replace it. The first one becomes the current one."""
    if not re.fullmatch(_NAME, name):
        raise typer.BadParameter("expected 1 to 63 letters, digits, '.', '_' and '-'", param_hint="NAME")
    if not re.fullmatch(r"https?://[^\s@?#]+", url):
        raise typer.BadParameter("expected a URL without user and query, as https://gateway:8081", param_hint="--url")
    if bool(admin_key_env) == bool(admin_key_file):
        raise typer.BadParameter("give either --admin-key-env or --admin-key-file; the key itself is not stored")
    if admin_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", admin_key_env):
        raise typer.BadParameter("expected the name of a variable, not its value", param_hint="--admin-key-env")
    known, file = load(), admin_key_file and str(Path(admin_key_file).expanduser().absolute())
    added = Context(name, url, admin_key_env, file, production)
    replace(known, current=known.current or name, by_name={**known.by_name, name: added}).save()
    print(f"Added {added}." + ("" if known.current else " It is the current one."))


@app.command("list")
def list_() -> None:
    """List contexts. The current one has an asterisk."""
    known = load()
    listed = [
        (
            "*" if name == known.current else "",
            name,
            context.url,
            context.admin_key_env or context.admin_key_file,
            "production" if context.production else "",
        )
        for name, context in sorted(known.by_name.items())
    ]
    print_table(("", "NAME", "URL", "ADMIN KEY FROM", ""), listed, empty="No contexts.")


@app.command("use")
def use(name: Name) -> None:
    """Make a context the current one.

    The commands of the admin API call it unless IMAGEGATE_URL, --url or --context says otherwise.
    """
    known = load()
    context = known.find(name)
    replace(known, current=name).save()
    print(f"The current context is {context}.")


@app.command("remove")
def remove(name: Name) -> None:
    """Remove a context. Its gateway stays."""
    known = load()
    known.find(name)
    rest = {other: context for other, context in known.by_name.items() if other != name}
    replace(known, current="" if known.current == name else known.current, by_name=rest).save()
    print(f"Removed context '{name}'.")
