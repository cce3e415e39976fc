"""`imagegate pool`."""

import getpass
import os
import re
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.client import AdminApi, Document, Yes, admin_command, rows
from gateway.cli.contexts import confirm
from gateway.cli.output import fail, minute, print_table, print_text, terminal_width
from gateway.cli.pool_table import render_pool, why

app = typer.Typer(help="Manage upstream accounts and provider keys.", no_args_is_help=True)

_PART: Final = r"[^/\s]+"
_WIDTH_MIN: Final = 80
_SECRET_MAX_CHARS: Final = 10_000
"""Limit on the characters read; the gateway accepts 500."""


def _key_path(text: str) -> str:
    if not re.fullmatch(f"{_PART}/{_PART}/{_PART}", text):
        raise typer.BadParameter("expected UPSTREAM/ACCOUNT/KEY")
    return text


def _any_path(text: str) -> str:
    if not re.fullmatch(f"{_PART}/{_PART}(/{_PART})?", text):
        raise typer.BadParameter("expected UPSTREAM/ACCOUNT/KEY, or UPSTREAM/ACCOUNT for all its keys")
    return text


def _any_target(text: str) -> str:
    if not re.fullmatch(f"{_PART}(/{_PART}){{0,2}}", text):
        raise typer.BadParameter("expected UPSTREAM/ACCOUNT/KEY, UPSTREAM/ACCOUNT, or UPSTREAM")
    return text


KeyTarget = Annotated[
    str, typer.Argument(metavar="UPSTREAM/ACCOUNT/KEY", help="The key.", callback=_key_path, show_default=False)
]
AnyTarget = Annotated[
    str,
    typer.Argument(
        metavar="UPSTREAM/ACCOUNT[/KEY]", help="The key, or the whole account.", callback=_any_path, show_default=False
    ),
]
EnabledTarget = Annotated[
    str,
    typer.Argument(
        metavar="UPSTREAM[/ACCOUNT[/KEY]]",
        help="The key, the whole account, or the upstream.",
        callback=_any_target,
        show_default=False,
    ),
]
SecretEnv = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="The environment variable that holds the secret.")
]
SecretFile = Annotated[str | None, typer.Option(metavar="FILE", help="The file that holds the secret.")]
_Rate = Annotated[int | None, typer.Option(min=1, max=1_000_000, metavar="N", help="Limit of a new account.")]


@admin_command(app, "list", short_help="Show accounts, their free capacity, and keys on cooldown.")
def list_(
    api: AdminApi, keys: Annotated[bool, typer.Option("--keys", help="Show all keys, not only unhealthy ones.")] = False
) -> None:
    """Show every upstream and account, the used capacity, and keys on cooldown with their cause.

    REQ/MIN and IMG/MIN: requests and images of the last minute, of the account's limit. IN FLIGHT: in-flight calls.
    Images and dollars a day are today's, in [metering] time_zone.
    """

    def render(response: Document) -> None:
        upstreams, width = rows(response), max(_WIDTH_MIN, terminal_width())
        for line in render_pool(upstreams, int(time.time()), width, every_key=keys) if upstreams else ["No upstreams."]:
            print(line)

    api.show(api.ask("GET", "pool"), render)


@admin_command(app, "add")
def add(
    api: AdminApi,
    target: KeyTarget,
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
    requests_per_minute: _Rate = None,
    images_per_minute: _Rate = None,
    max_concurrency: _Rate = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help="A new account's share of the load.")
    ] = None,
) -> None:
    """Add a key while the gateway runs.

    A missing account is created, with MiniMax's published limits unless others are set. The secret is read from a
    variable, a file or standard input, and stored encrypted. The gateway then checks the key, for free.
    The exit code is 1 if it does not work.
    """
    upstream, account, key = target.split("/")
    body: Document = {"upstream": upstream, "account": account, "key": key}
    limits = {"requests_per_minute": requests_per_minute, "images_per_minute": images_per_minute}
    limits |= {"max_concurrency": max_concurrency, "weight": weight}
    body |= {name: value for name, value in limits.items() if value is not None}
    body["secret"] = _read_secret(secret_env, secret_file, target)
    response = api.ask("POST", "pool", body=body)
    api.show(response, partial(_print_new, target, "added"))
    _fail_unless_it_works(response)


@admin_command(app, "secret")
def secret(
    api: AdminApi,
    target: KeyTarget,
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
) -> None:
    """Replace the secret of a key that was added at run time.

    New calls use the new secret; the key's cooldowns end. The secret is read from a variable, a file or standard input,
    and stored encrypted. The gateway then checks it, for free. The exit code is 1 if it does not work. For a key of the
    configuration, change the secret where the configuration reads it.
    """
    body: Document = {"secret": _read_secret(secret_env, secret_file, target)}
    response = api.ask("POST", "pool", *target.split("/"), "secret", body=body)
    api.show(response, partial(_print_new, target, "has a new secret"))
    _fail_unless_it_works(response)


@admin_command(app, "history")
def history(api: AdminApi, target: KeyTarget) -> None:
    """Show the latest states of a provider key.

    At most 50, newest first, with those of its account and of its upstream.
    """
    api.show(api.ask("GET", "pool", *target.split("/"), "history"), _print_history)


def _print_history(response: Document) -> None:
    lines = [
        (
            minute(row.get("at")),
            row.get("scope"),
            row.get("state"),
            " ".join(str(row[name]) for name in ("error_code", "model") if row.get(name)),
            row.get("actor") or "the gateway",
        )
        for row in rows(response)
    ]
    print_table(("TIME", "OF", "STATE", "WHY", "BY"), lines, empty="No state has changed.")


@admin_command(app, "remove")
def remove(api: AdminApi, target: KeyTarget, yes: Yes = False) -> None:
    """Remove a key that was added at run time.

    Its in-flight calls finish.
    """
    confirm(api.place, f"remove the key {target} and its stored secret", yes=yes)
    response = api.ask("DELETE", "pool", *target.split("/"))
    api.show(response, lambda _: print_text(f"{target} ({response.get('fingerprint')}) removed."))


@admin_command(app, "enable")
def enable(api: AdminApi, target: EnabledTarget) -> None:
    """Enable a key or an account, and end its cooldown. For an upstream: end its cooldown or close its breaker."""
    _hold(api, target, "ready")


@admin_command(app, "disable")
def disable(api: AdminApi, target: AnyTarget) -> None:
    """Disable a key or an account until it is enabled again."""
    _hold(api, target, "disabled")


@admin_command(app, "drain")
def drain(api: AdminApi, target: AnyTarget) -> None:
    """Send no new calls with a key or an account.

    Its in-flight calls finish.
    """
    _hold(api, target, "draining")


@admin_command(app, "probe")
def probe(api: AdminApi, target: KeyTarget) -> None:
    """Check a key at the provider, for free. The exit code is 1 if it does not work."""
    response = api.ask("POST", "pool", *target.split("/"), "probe")
    api.show(response, partial(_print_probe, target))
    if not response.get("works"):
        raise typer.Exit(1)


def _fail_unless_it_works(response: Document) -> None:
    probed = response.get("probe")
    if isinstance(probed, dict) and not probed.get("works"):
        raise typer.Exit(1)


def _print_new(target: str, act: str, response: Document) -> None:
    print_text(f"{target} ({response.get('fingerprint')}) {act}.")
    probed = response.get("probe")
    if isinstance(probed, dict):
        _print_probe(target, probed | {"key": response})


def _print_probe(target: str, response: Document) -> None:
    seconds = response.get("seconds")
    took = f" ({seconds:.1f} s)" if isinstance(seconds, int | float) else ""
    if response.get("works"):
        print_text(f"{target} works{took}.")
    else:
        reasons = [str(response[name]) for name in ("error_code", "detail") if response.get(name)]
        print_text(f"{target} does not work: {', '.join(reasons) or 'no reason reported'}{took}.")
    _print_state(response.get("key"))


def _hold(api: AdminApi, target: str, state: str) -> None:
    def render(response: Document) -> None:
        print_text(f"{target}: {'enabled' if state == 'ready' else state}.")
        if response.get("state") != state:
            _print_state(response)

    api.show(api.ask("PATCH", "pool", *target.split("/"), body={"state": state}), render)


def _print_state(thing: object) -> None:
    if isinstance(thing, dict):
        reasons = ", ".join(why(thing, int(time.time())))
        print_text(f"State: {thing.get('state')}{f', {reasons}' if reasons else ''}.")


def _read_secret(variable: str | None, file: str | None, target: str) -> str:
    """Reads the secret. Not from the command line, which every process of the machine may see."""
    from gateway.domain.secret_shapes import find_paste_of_key, name_shown, path_shown

    if variable and file:
        raise typer.BadParameter("--secret-env and --secret-file cannot be used together")
    secret, source = "", "no secret was entered"
    if variable:
        secret = os.environ.get(variable, "")
        source = f"the environment variable {name_shown(variable) or 'of --secret-env'} is not set or empty"
    elif file:
        source = f"the file {path_shown(file) or 'of --secret-file'} is missing, unreadable or empty"
        with suppress(OSError, ValueError):
            secret = Path(file).read_text("utf-8-sig")[:_SECRET_MAX_CHARS]
    elif sys.stdin.isatty():
        secret = getpass.getpass(f"Secret of {target}: ")
    else:
        secret, source = sys.stdin.read(_SECRET_MAX_CHARS), "standard input is empty"
    secret = secret.strip()
    if not secret:
        fail(f"{source}; pass the secret by --secret-env, --secret-file or standard input")
    if problem := find_paste_of_key(secret):
        fail(f"the secret cannot be used: {problem}")
    return secret
