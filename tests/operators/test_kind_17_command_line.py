"""Kind 17: contexts, completion, plans, and questions before what cannot be undone."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import check_refused, environment, fits, run
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


FILE = """
[[tenants]]
name = "design"
owner = "Ada"
tags = { team = "design" }
limits = { requests_per_minute = 60 }
quotas = { images_per_month = 1000, usd_per_month = 50.00 }
[[tenants.keys]]
label = "web"
limits = { requests_per_minute = 10 }

[[tenants]]
name = "shop"
models = ["image-01"]
"""


def test_a_file_is_applied_once_and_then_changes_nothing(gateway: Gateway, tmp_path: Path) -> None:
    file, out = tmp_path / "teams.toml", tmp_path / "keys.csv"
    file.write_text(FILE)
    asked = ask(gateway, "apply", "-f", str(file))
    assert (1, "") == (asked.returncode, asked.stdout)
    assert "Make these changes? There is no terminal to ask: to do it, repeat the command with --yes" in asked.stderr
    assert ["acme"] == names(gateway)
    done = ask(gateway, "apply", "-f", str(file), "--yes", "--keys-out", str(out))
    assert (0, "") == (done.returncode, done.stdout)
    assert fits(done.stderr)
    for line in ("create   tenant design", "quotas.usd_per_month: 50.00", "create   key 'web' of design"):
        assert line in done.stderr
    assert 0o600 == stat.S_IMODE(out.stat().st_mode)
    header, row = out.read_text().splitlines()
    assert "tenant,label,id,key" == header
    assert re.fullmatch(r"design,web,[A-Za-z0-9]{10},sk-ig-[A-Za-z0-9]{42}", row)
    again = ask(gateway, "apply", "-f", str(file), "--json")
    assert (0, "0 to change, 3 unchanged.\n") == (again.returncode, again.stderr)
    assert {"plan": [], "unchanged": 3, "keys": []} == json.loads(again.stdout)


def test_a_plan_says_field_by_field_what_changes(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "teams.toml"
    file.write_text(FILE)
    made = ask(gateway, "apply", "-f", str(file), "--yes").stdout
    assert re.fullmatch(r"tenant,label,id,key\ndesign,web,\w{10},sk-ig-\w{42}\n", made)
    changed = FILE.replace("1000", "2000").replace("50.00", '"none"').replace('design" }', 'art" }')
    file.write_text(changed.replace("requests_per_minute = 10", "requests_per_minute = 20"))
    done = ask(gateway, "apply", "-f", str(file), "--yes", "--prune")
    plan = done.stderr.partition("3 to change")[0]
    assert [
        "update   tenant design",
        "           tags: team=design -> team=art",
        "           quotas.images_per_month: 1000 -> 2000",
        "           quotas.usd_per_month: 50.00 -> none",
        "update   key 'web' of design",
        "           limits.requests_per_minute: 10 -> 20",
        "disable  tenant acme",
    ] == plan.splitlines()
    found = gateway.admin("GET", "/tenants/design").json()
    assert ({"images_per_month": 2000}, {"team": "art"}) == (found["quotas"], found["tags"])
    assert gateway.admin("GET", "/tenants/acme").json()["disabled"]


def names(gateway: Gateway) -> list[str]:
    return [tenant["name"] for tenant in gateway.admin("GET", "/tenants").json()["data"]]


WRONG = """
[[tenants]]
name = "Not A Name"
wieght = 2

[[tenants]]
name = "shop"
weight = 0
quotas = { usd_per_month = "much" }
[[tenants.keys]]
label = "web"
role = "boss"
[[tenants.keys]]
label = "web"

[[tenants]]
name = "shop"
"""


@pytest.mark.shares_gateway
def test_every_mistake_of_a_file_is_reported_with_its_line(gateway: Gateway, tmp_path: Path, shows: Shows) -> None:
    file = tmp_path / "teams.toml"
    file.write_text(WRONG)
    done = ask(gateway, "apply", "-f", str(file), "--yes")
    assert (1, "") == (done.returncode, done.stdout)
    lines = [line.removeprefix("imagegate: ").removeprefix(f"{file}:") for line in done.stderr.splitlines()]
    places = {":".join(line.split(":")[:2]) for line in lines}
    assert {
        "3: tenants[0].name",
        "4: tenants[0].wieght",
        "8: tenants[1].weight",
        "9: tenants[1].quotas.usd_per_month",
        "12: tenants[1].keys[0].role",
        "11: tenants[1].keys[0].label",
        "14: tenants[1].keys[1].label",
        "7: tenants[1].name",
        "17: tenants[2].name",
    } == places
    assert "shop" not in names(gateway)
    for line in lines:
        shows(17, "imagegate apply -f teams.toml", line)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("content", "mistakes"),
    [
        (
            '{"tenants": [\n {"name": "shop", "x": {"\\"": "]"},\n  "weight": 0,\n  "keys": [{\n  "label": ""}]}\n]}',
            [
                "2: tenants[0].x: unknown field; known: alerts",
                "3: tenants[0].weight: E",
                "5: tenants[0].keys[0].label: E",
            ],
        ),
        (
            '{"tenants": [],\n "tenants": [{"name": "a", "quotas": {},\n "quotas": {}}]}',
            ["2: tenants: this key is there twice", "3: tenants[0].quotas: this key is there twice"],
        ),
        ('{"tenants": ' + 9_000 * "[" + 9_000 * "]" + "}", [" its JSON is nested too deeply"]),
    ],
    ids=["values", "keys", "depth"],
)
def test_every_mistake_of_a_json_file_is_reported_with_its_line(
    gateway: Gateway, tmp_path: Path, content: str, mistakes: list[str]
) -> None:
    file = tmp_path / "teams.json"
    file.write_text(content)
    done = ask(gateway, "apply", "-f", str(file), "--yes")
    assert (1, "") == (done.returncode, done.stdout)
    lines = [line.removeprefix("imagegate: ").removeprefix(f"{file}:") for line in done.stderr.splitlines()]
    assert len(mistakes) == len(lines)
    for line, mistake in zip(lines, mistakes, strict=True):
        assert line.startswith(mistake)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[tenants", "this is not TOML"),
        ("tenants = 1", "tenants: Expected `array`, got `int`"),
        ("", "tenants: Object missing required field `tenants`"),
        (f"tenants = {'[' * 5000}", "its tables or lists are nested too deeply; remove the inner ones"),
    ],
)
def test_a_file_that_is_none_is_refused(
    gateway: Gateway, tmp_path: Path, content: str, message: str, shows: Shows
) -> None:
    file = tmp_path / "teams.toml"
    file.write_text(content)
    done = ask(gateway, "apply", "-f", str(file), "--yes")
    check_refused(done, message)
    shows(17, "imagegate apply -f teams.toml", done.stderr.replace(str(tmp_path) + os.sep, "").strip())
