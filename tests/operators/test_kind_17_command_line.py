"""Kind 17: contexts, completion, plans, and questions before what cannot be undone."""

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import check_refused, environment, run
from tests.support.harness import ADMIN_KEY, Gateway
from tests.support.operators import Shows


def ask(gateway: Gateway, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return run(*arguments, stdin=stdin, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (("tenant", "delete", "acme"), "Delete what the tenant 'acme' stored, and disable it?"),
        (("tenant", "delete", "acme", "--purge"), "Delete the tenant 'acme' for good, all but its bill?"),
        (("key", "revoke", "acme", "KEY"), "Revoke the key KEY of 'acme'?"),
        (
            ("key", "rotate", "acme", "KEY", "--grace", "0"),
            "Rotate the key KEY of 'acme' and revoke its present secret at once?",
        ),
        (("pool", "remove", "sim/main/main-2"), "Remove the key sim/main/main-2 and its stored secret?"),
        (("batch", "cancel", "acme", "batch_1"), "Cancel the batch batch_1 of 'acme'?"),
        (("usage", "close", "2025-11"), "Close the month 2025-11?"),
        (("webhook", "rotate", "wh_1", "--now"), "Rotate the secret of webhook wh_1 and end its present one at once?"),
    ],
)
def test_what_cannot_be_undone_is_not_done_without_a_terminal_or_yes(
    gateway: Gateway, arguments: tuple[str, ...], question: str, shows: Shows
) -> None:
    key_id = gateway.api_key[6:16]
    done = ask(gateway, *(key_id if argument == "KEY" else argument for argument in arguments))
    rest = "This cannot be undone. There is no terminal to ask: to do it, repeat the command with --yes"
    check_refused(done, f"{question.replace('KEY', key_id)} {rest}")
    shows(17, f"imagegate {' '.join(arguments)}", done.stderr.replace(key_id, "KEY").strip())
    assert 200 == gateway.get("/v1/models").status_code


def test_a_second_rotation_asks_before_it_revokes_a_secret_that_is_still_valid(gateway: Gateway, shows: Shows) -> None:
    rotation = ("key", "rotate", "acme", gateway.api_key[6:16])
    assert 0 == ask(gateway, *rotation).returncode
    done = ask(gateway, *rotation)
    check_refused(done, "and revoke its former secret, valid until ")
    shows(
        17,
        "imagegate key rotate acme KEY",
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", done.stderr).replace(rotation[-1], "KEY"),
    )
    assert 200 == gateway.get("/v1/models").status_code
    again = ask(gateway, *rotation, "--yes")
    assert 0 == again.returncode
    assert "The key before it, which was valid until" in again.stderr
    assert 401 == gateway.get("/v1/models").status_code


@pytest.mark.parametrize(
    "command", [("me", "show"), ("serve",), ("demo",), ("check",), ("context", "list")], ids=" ".join
)
def test_a_context_is_refused_by_commands_that_do_not_call_the_admin_api(command: tuple[str, ...]) -> None:
    done = run(*command, "--context", "prod")
    assert (2, "") == (done.returncode, done.stdout)
    assert f"--context does not apply to {command[0]}, which does not call the admin API" in done.stderr


def test_every_command_has_the_short_option_for_help() -> None:
    for command in ((), ("tenant",), ("tenant", "create"), ("apply",), ("context", "add"), ("serve",)):
        done = run(*command, "-h")
        assert (0, run(*command, "--help").stdout) == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"COMP_WORDS": "imagegate ten", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "imagegate ten"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "imagegate ten", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_completes_commands(shell: str, variables: dict[str, str]) -> None:
    code = "import sys; sys.argv = ['imagegate']; from gateway.__main__ import main; main()"
    known = environment(_IMAGEGATE_COMPLETE=f"complete_{shell}", **variables)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=known, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert "tenant" in done.stdout
    assert "serve" not in done.stdout


def test_the_version_imports_no_command() -> None:
    """What it imports is what it costs: importing the commands takes 0.2 s of CPU."""
    code = "import sys; sys.argv = ['imagegate', '--version']; import gateway.__main__ as m; m.main(); "
    code += "print(sorted({'typer', 'gateway.cli', 'httpx', 'gateway.api'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n\[\]\n", done.stdout)


class Contexts:
    """Commands with a file of contexts of their own."""

    def __init__(self, home: Path) -> None:
        self.variables = {"XDG_CONFIG_HOME": str(home), "STAGING_KEY": ADMIN_KEY}
        self.file = home / "imagegate" / "contexts.toml"

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return run(*arguments, **self.variables, **more)


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return Contexts(tmp_path)


@pytest.mark.shares_gateway
def test_a_context_is_the_gateway_that_commands_call(gateway: Gateway, contexts: Contexts, tmp_path: Path) -> None:
    added = contexts.run("context", "add", "staging", "--url", gateway.url, "--admin-key-env", "STAGING_KEY")
    assert f"Added context 'staging' at {gateway.url}. It is the current one.\n" == added.stdout
    assert 0o600 == stat.S_IMODE(contexts.file.stat().st_mode)
    assert ADMIN_KEY not in contexts.file.read_text()
    assert "acme" in contexts.run("tenant", "list").stdout
    (tmp_path / "key").write_text(f"{ADMIN_KEY}\n")
    url = gateway.url.replace("127.0.0.1", "localhost")
    contexts.run("context", "add", "prod", "--url", url, "--admin-key-file", str(tmp_path / "key"), "--production")
    for arguments in (("--context", "prod", "tenant", "list"), ("tenant", "list", "--context=prod")):
        assert "acme" in contexts.run(*arguments).stdout
    assert "acme" in contexts.run("tenant", "list", IMAGEGATE_CONTEXT="prod").stdout
    refused = contexts.run("tenant", "delete", "acme", "--context", "prod")
    check_refused(refused, f"and disable it in context 'prod' (production) at {url}?")
    assert re.search(r"^\* +staging", contexts.run("context", "list").stdout, re.MULTILINE)
    contexts.run("context", "use", "prod")
    listed = contexts.run("context", "list").stdout
    assert re.search(r"^\* +prod .*production", listed, re.MULTILINE)
    assert "Removed context 'prod'.\n" == contexts.run("context", "remove", "prod").stdout
    assert re.search(r"^ +staging", contexts.run("context", "list").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("tenant", "list", "--context", "nope"), {}, "there is no context 'nope'; known: one"),
        (
            ("tenant", "list", "--context", "one"),
            {},
            "context 'one' at http://127.0.0.1:9: the environment variable NOT_SET is not set or empty",
        ),
        (
            ("tenant", "list"),
            {"IMAGEGATE_CONTEXT": "one", "IMAGEGATE_URL": "http://127.0.0.1:9"},
            "IMAGEGATE_CONTEXT and IMAGEGATE_URL are both set; unset one, or use --context",
        ),
    ],
)
def test_a_context_that_cannot_be_used_says_why(
    contexts: Contexts, arguments: tuple[str, ...], variables: dict[str, str], message: str, shows: Shows
) -> None:
    contexts.run("context", "add", "one", "--url", "http://127.0.0.1:9", "--admin-key-env", "NOT_SET")
    done = contexts.run(*arguments, **variables)
    check_refused(done, message)
    shows(17, f"imagegate {' '.join(arguments)}", done.stderr.strip())


def test_the_key_of_the_current_context_is_sent_to_no_other_address(contexts: Contexts) -> None:
    contexts.run("context", "add", "one", "--url", "http://127.0.0.1:9", "--admin-key-env", "STAGING_KEY")
    for arguments, variables in (
        (("--url", "http://127.0.0.1:10"), {}),
        ((), {"IMAGEGATE_URL": "http://127.0.0.1:10"}),
    ):
        check_refused(contexts.run("tenant", "list", *arguments, **variables), "no admin key")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --admin-key-env or --admin-key-file"),
        (("--admin-key-env", "sk-secret value"), "expected the name of a variable, not its value"),
        (("--admin-key-env", "A", "--admin-key-file", "b"), "give either --admin-key-env or --admin-key-file"),
    ],
)
def test_a_context_holds_no_key(contexts: Contexts, options: tuple[str, ...], message: str, shows: Shows) -> None:
    done = contexts.run("context", "add", "one", "--url", "http://127.0.0.1:9", *options)
    assert (2, "") == (done.returncode, done.stdout)
    assert message in " ".join(done.stderr.split())
    assert "sk-secret" not in done.stderr
    assert not contexts.file.exists()
    shows(17, "imagegate context add one --url http://127.0.0.1:9", message)
