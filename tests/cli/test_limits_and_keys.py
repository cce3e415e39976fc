"""Limits, rotation, hashes and the audit on the command line."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.domain.tenants import digest, key_id
from gateway.tenants.authentication import generate_api_key
from tests.support.commands import Ask, check_refused, fits, run
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway

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


@pytest.mark.parametrize(
    ("grace", "expected"), [(("--grace", "30m"), 200), ((), 200), (("--grace", "0", "--yes"), 401)]
)
def test_a_key_is_rotated(ask: Ask, gateway: Gateway, grace: tuple[str, ...], expected: int) -> None:
    rotated = ask("key", "rotate", "acme", gateway.api_key[6:16], *grace)
    assert 0 == rotated.returncode
    new = rotated.stdout.strip()
    assert gateway.api_key[:16] == new[:16]
    assert [expected, 200] == [status_of(gateway, key) for key in (gateway.api_key, new)]
    assert ("is valid until" if expected == 200 else "is revoked") in rotated.stderr
    assert fits(rotated.stderr)


def test_the_end_of_an_old_key_is_shown_and_a_second_rotation_says_that_it_ends_at_once(
    ask: Ask, gateway: Gateway
) -> None:
    public_id = gateway.api_key[6:16]
    assert "OLD KEY" not in ask("key", "list", "acme").stdout
    assert "The one before" not in ask("key", "rotate", "acme", public_id).stderr
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    assert re.search(rf"OLD KEY UNTIL *\n{public_id} .*never +{moment}", ask("key", "list", "acme").stdout)
    assert [] == missing(ask("key", "show", "acme", public_id).stdout, (rf"old key until +{moment}",))
    again = ask("key", "rotate", "acme", public_id, "--grace", "0", "--yes").stderr
    assert re.search(rf"The key before it, which was valid until {moment}, is revoked\.", again)
    assert "OLD KEY" not in ask("key", "list", "acme").stdout


@pytest.mark.parametrize("command", ["show", "update", "rotate", "revoke"])
def test_a_key_given_for_its_id_is_not_repeated(ask: Ask, gateway: Gateway, command: str) -> None:
    options = ("--label", "x") if command == "update" else ()
    for arguments in (("acme", gateway.api_key), (gateway.api_key, gateway.api_key[6:16])):
        done = ask("key", command, *arguments, *options)
        assert (2, "") == (done.returncode, done.stdout)
        assert "the 10 characters after sk-ig-" in done.stderr
        assert gateway.api_key not in done.stderr
    assert 200 == status_of(gateway, gateway.api_key)


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
def test_a_key_of_another_tenant_is_refused_and_left_alone(ask: Ask, gateway: Gateway, command: str) -> None:
    gateway.admin("POST", "/tenants", {"name": "other"})
    check_refused(ask("key", command, "other", gateway.api_key[6:16]), "other", gateway.api_key[6:16])
    check_refused(ask("key", command, "acme", "0123456789"), "0123456789")
    assert 200 == status_of(gateway, gateway.api_key)


def hashed(text: str) -> subprocess.CompletedProcess[str]:
    return run("key", "hash", "--stdin", stdin=text)


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
    ask("key", "revoke", "shop", key[6:16], "--yes")
    done = ask("audit", "--tenant", "shop")
    assert (0, "") == (done.returncode, done.stderr)
    assert fits(done.stdout)
    heads = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC  (\w+)  ([\w.]+)  shop", done.stdout, re.MULTILINE)
    assert [("admin", act) for act in ("key.revoke", "key.create", "tenant.disable", "tenant.create")] == heads
    for line in ("    limits.concurrency: 10 -> none", "    models: all -> image-01", "    disabled: false -> true"):
        assert line in done.stdout
    assert "    quotas.usd_per_month: 50.50" in done.stdout
    assert "\x1b" not in done.stdout
    assert key[16:] not in done.stdout
    check_refused(ask("audit", "--tenant", "nobody"), "nobody")
    assert "No entries." in ask("audit", "--before", "0-1@shop").stdout


def test_the_audit_is_paged(ask: Ask) -> None:
    page = ask("audit", "--limit", "1")
    found = re.fullmatch(r"More entries: --before (\S+)\n", page.stderr)
    assert found
    rest: dict[str, Any] = json.loads(ask("audit", "--before", found[1], "--json").stdout)
    assert ["tenant.create"] == [entry["action"] for entry in rest["data"]]
    assert "key.create" in page.stdout


def test_the_keys_of_all_tenants_are_listed(ask: Ask) -> None:
    ask("tenant", "create", "shop")
    made = ask("key", "create", "shop", "--label", "web", "--days", "3").stdout
    assert re.search(rf"shop +{made[6:16]} +web +\d", ask("key", "list").stdout)
    assert [made[6:16]] == re.findall(r"\w{10}(?= +web)", ask("key", "list", "--view", "expires_14d").stdout)
    assert "No keys." in ask("key", "list", "acme", "--view", "expires_14d").stdout
    ask("key", "revoke", "shop", made[6:16], "--yes")
    assert re.search(rf"shop +{made[6:16]} +web +\S+ \S+ UTC +admin", ask("key", "list", "--view", "revoked").stdout)


def test_an_empty_page_of_the_audit_that_continues_is_not_its_end(ask: Ask, gateway: Gateway, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        [(_, entry)] = client.xrevrange("ig3:{acme}:audit", count=1)
        pipeline = client.pipeline(transaction=False)
        for _ in range(2001):
            pipeline.xadd("ig3:{acme}:audit", {**entry, "actor": "robot"})
        pipeline.execute()
    newest = ask("audit", "--action", "tenant.create")
    assert "" == newest.stdout
    found = re.fullmatch(r"No entries among the newest\. Older ones: --before (\S+)\n", newest.stderr)
    assert found
    rest = ask("audit", "--action", "tenant.create", "--before", found[1])
    assert ("tenant.create" in rest.stdout, "") == (True, rest.stderr)


def test_a_reader_is_told_that_it_may_only_read(make_gateway: MakeGateway, tmp_path: Path) -> None:
    reading = "reader-secret-for-tests"
    (tmp_path / "reader").write_text(reading)
    keys = [{"name": "board", "secret": {"file": str(tmp_path / "reader")}, "role": "read"}]
    gateway = make_gateway(admin={"key": {"env": "ADMIN_KEY"}, "keys": keys})
    options = ("--url", gateway.url, "--admin-key", reading)
    assert 0 == run("tenant", "list", *options).returncode
    check_refused(run("tenant", "create", "b", *options), "board", "read")


def test_a_change_of_a_declared_tenant_warns(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(tenants=[{"name": "shop"}])
    done = run("tenant", "update", "shop", "--weight", "2", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    assert 0 == done.returncode
    assert "shop is declared in the configuration. The next start or reload reverts this change.\n" == done.stderr


def test_a_hint_says_what_a_start_makes_of_a_switched_declared_tenant(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(tenants=[{"name": "shop"}])
    options = ("--url", gateway.url, "--admin-key", ADMIN_KEY)
    stays = "The configuration declares it, but it stays disabled until:\nimagegate tenant update shop --enable\n"
    assert stays == run("tenant", "update", "shop", "--disable", *options).stderr
    assert stays == run("tenant", "delete", "shop", "--yes", *options).stderr
    both = run("tenant", "update", "shop", "--disable", "--weight", "2", *options).stderr
    assert (
        both
        == "shop is declared in the configuration. The next start or reload reverts this change, except --disable.\n"
        + stays
    )
    listed = run("tenant", "list", *options).stdout
    assert re.search(r"^shop +disabled by admin, declared +all ", listed, re.MULTILINE)
    enabled = run("tenant", "update", "shop", "--enable", *options).stderr
    again = "If the configuration disables it, the next start or reload does so again.\n"
    assert f"Keys that are valid: none.\n{again}" == enabled
    assert (
        "To enable it again: imagegate tenant update acme --enable"
        in run("tenant", "delete", "acme", "--yes", *options).stderr
    )


def test_a_declared_key_that_is_revoked_needs_another(make_gateway: MakeGateway) -> None:
    secret = generate_api_key()
    gateway = make_gateway(tenants=[{"name": "shop", "keys": [{"hash": f"{key_id(secret)}.{digest(secret)}"}]}])
    done = run("key", "revoke", "shop", secret[6:16], "--yes", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    told = "The configuration still declares it. It stays revoked: declare a new key.\n"
    assert (0, told) == (done.returncode, done.stderr)
