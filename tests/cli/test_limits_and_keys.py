"""Limits, rotation, hashes and the audit on the command line."""

import json
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest

from gateway.domain.credentials import digest, key_id
from tests.cli.test_cli import Ask, ask, check_refused, environment, fits, run
from tests.conftest import MakeGateway
from tests.harness import ADMIN_KEY, Gateway

__all__ = ["ask"]

EVERY = (
    *("--requests-per-minute", "60", "--images-per-minute", "120", "--concurrency", "10"),
    *("--images-per-day", "500", "--images-per-month", "10000", "--usd-per-month", "50.5"),
)
LINES = (
    *(r"requests per minute +60", r"images per minute +120", r"concurrency +10"),
    *(r"images per day +500", r"images per month +10000", r"US dollars per month +50\.50"),
)


def missing(output: str, patterns: tuple[str, ...]) -> list[str]:
    """The lines that an output lacks."""
    return [pattern for pattern in patterns if not re.search(rf"^{pattern} *$", output, re.MULTILINE)]


def test_a_tenants_limits_are_set_shown_and_removed(ask: Ask) -> None:
    made = ask("tenant", "create", "shop", *EVERY, "--weight", "3")
    assert (0, []) == (made.returncode, missing(made.stdout, (*LINES, r"weight +3")))
    shown = ask("tenant", "show", "shop")
    assert (True, []) == (fits(shown.stdout), missing(shown.stdout, (*LINES, r"used: images today +0")))
    changed = ask(
        "tenant", "update", "shop", "--concurrency", "none", "--usd-per-month", "none", "--images-per-day", "0"
    )
    assert [r"concurrency +10", r"images per day +500", r"US dollars per month +50\.50"] == missing(
        changed.stdout, LINES
    )
    assert [] == missing(changed.stdout, (r"images per day +0",))


def test_a_keys_limits_are_set_shown_and_removed(ask: Ask) -> None:
    key = ask("key", "create", "acme", "--label", "web", *EVERY).stdout.strip()
    shown = ask("key", "show", "acme", key[6:16])
    assert (True, []) == (fits(shown.stdout), missing(shown.stdout, (*LINES, r"label +web", r"expires +never")))
    changed = ask("key", "update", "acme", key[6:16], "--concurrency", "none", "--label", "app", "--days", "9")
    assert [r"concurrency +10"] == missing(changed.stdout, LINES)
    assert [] == missing(changed.stdout, (r"label +app", r"expires +\d{4}-\d\d-\d\d"))
    assert [] == missing(ask("key", "update", "acme", key[6:16], "--never-expires").stdout, (r"expires +never",))


def status_of(gateway: Gateway, key: str) -> int:
    return httpx.get(f"{gateway.base_url}/models", headers={"authorization": f"Bearer {key}"}).status_code


@pytest.mark.parametrize(("grace", "expected"), [(("--grace", "30m"), 200), ((), 200), (("--grace", "0"), 401)])
def test_a_key_is_rotated(ask: Ask, gateway: Gateway, grace: tuple[str, ...], expected: int) -> None:
    rotated = ask("key", "rotate", "acme", gateway.api_key[6:16], *grace)
    assert 0 == rotated.returncode
    new = rotated.stdout.strip()
    assert gateway.api_key[:16] == new[:16]
    assert [expected, 200] == [status_of(gateway, key) for key in (gateway.api_key, new)]
    assert ("works until" if expected == 200 else "refused from now on") in rotated.stderr
    assert fits(rotated.stderr)


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
def test_a_key_of_another_tenant_is_refused_and_left_alone(ask: Ask, gateway: Gateway, command: str) -> None:
    gateway.admin("POST", "/tenants", {"name": "other"})
    check_refused(ask("key", command, "other", gateway.api_key[6:16]), "other", gateway.api_key[6:16])
    check_refused(ask("key", command, "acme", "0123456789"), "0123456789")
    assert 200 == status_of(gateway, gateway.api_key)


def hashed(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "key", "hash", "--stdin"]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=60, env=environment(), check=False
    )


def test_a_new_key_comes_with_the_line_that_declares_it(make_gateway: MakeGateway) -> None:
    done = run("key", "hash")
    key, line = done.stdout.splitlines()
    assert f'hash = "{key_id(key)}.{digest(key)}"' == line
    assert f"{line}\n" == hashed(f"{key}\n").stdout
    gateway = make_gateway(tenants=[{"name": "shop", "keys": [{"hash": line.split('"')[1]}]}])
    assert 200 == status_of(gateway, key)


@pytest.mark.parametrize("text", ["", "\n", "hunter2-canary\n", "sk-canary\n", "sk-ig-" + "x" * 41, "x" * 100_000])
def test_what_is_no_key_is_not_hashed_and_not_repeated(text: str) -> None:
    done = hashed(text)
    check_refused(done, "sk-ig-", "imagegate key hash")
    assert "canary" not in done.stderr


def test_the_audit_is_read_by_people(ask: Ask, gateway: Gateway) -> None:
    ask("tenant", "create", "shop", *EVERY)
    ask("tenant", "update", "shop", "--concurrency", "none", "--model", "image-01", "--disable")
    key = ask("key", "create", "shop", "--label", "\x1b[31mred " + "long " * 15).stdout.strip()
    ask("key", "revoke", "shop", key[6:16])
    done = ask("audit", "--tenant", "shop")
    assert (0, "") == (done.returncode, done.stderr)
    assert fits(done.stdout)
    heads = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC  (\w+)  ([\w.]+)  shop", done.stdout, re.MULTILINE)
    assert [("admin", act) for act in ("key.revoke", "key.create", "tenant.disable", "tenant.create")] == heads
    for line in ("    limits.concurrency: 10 -> none", "    models: all -> image-01", "    disabled: none -> true"):
        assert line in done.stdout
    assert "    quotas.usd_per_month: 50.50" in done.stdout
    assert "\x1b" not in done.stdout
    assert key[16:] not in done.stdout
    check_refused(ask("audit", "--tenant", "nobody"), "nobody")
    assert "There are no entries." in ask("audit", "--before", "0-1@shop").stdout


def test_the_audit_is_paged(ask: Ask) -> None:
    page = ask("audit", "--limit", "1")
    found = re.fullmatch(r"There are more: --before (\S+)\n", page.stderr)
    assert found
    rest: dict[str, Any] = json.loads(ask("audit", "--before", found[1], "--json").stdout)
    assert ["tenant.create"] == [entry["action"] for entry in rest["data"]]
    assert "key.create" in page.stdout


def test_a_reader_is_told_that_it_may_only_read(make_gateway: MakeGateway) -> None:
    keys = [{"name": "board", "secret": {"env": "SECRET_MAIN_1"}, "role": "read"}]
    gateway = make_gateway(admin={"key": {"env": "ADMIN_KEY"}, "keys": keys})
    options = ("--url", gateway.url, "--admin-key", "main-1")
    assert 0 == run("tenant", "list", *options).returncode
    check_refused(run("tenant", "create", "b", *options), "board", "read")
    assert ADMIN_KEY != "main-1"


def test_a_change_of_a_declared_tenant_warns(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(tenants=[{"name": "shop"}])
    done = run("tenant", "update", "shop", "--weight", "2", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    assert 0 == done.returncode
    assert "configuration" in done.stderr
    assert fits(done.stderr)
