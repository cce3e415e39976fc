"""`imagegate pool` as a person types it."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.cli.pool_table import cut, render_pool, short, span
from tests.support.commands import Ask, check_refused, environment, fits, run
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, Simulator, upstream

NOW: Final = 1_800_000_000
LONG: Final = "a" * 31 + "-" + "z" * 31
TARGET: Final = "sim/main/main-2"
SECRET: Final = "sk-canary-0123456789"


@pytest.fixture
def gateway(make_gateway: MakeGateway, tmp_path: Path) -> Gateway:
    """One to which keys can be added."""
    (tmp_path / "pool_key").write_text("0123456789abcdef" * 2)
    return make_gateway(pool={"encryption_keys": [{"file": str(tmp_path / "pool_key")}]})


@pytest.fixture
def ask(gateway: Gateway) -> Ask:
    """A command with the address and the admin key of a running gateway, and standard input."""

    def asked(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        variables |= {"IMAGEGATE_URL": gateway.url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
        return run("pool", *arguments, stdin=stdin, **variables)

    return asked


def key(**fields: object) -> dict[str, object]:
    calm = {"fingerprint": "fp-1a2b3c4d", "state": "ready", "error_code": None, "model": None, "held_by": None}
    return {"key": "main-1", **calm, "since": None, "until": None, "declared": True} | fields


def account(**fields: object) -> dict[str, object]:
    calm = {"state": "ready", "error_code": None, "since": None, "until": None, "held_by": None}
    room = {
        "requests_per_minute": {"limit": 10, "now": 10, "used": 3, "free": 7},
        "images_per_minute": {"limit": 60, "used": 12, "free": 48},
        "concurrency": {"limit": 10, "now": 10, "used": 2, "free": 8},
    }
    spent = {"images_today": 41, "spend_today_usd": "0.1435"}
    return {"account": "main", **calm, **room, **spent, "keys": [key()]} | fields


def site(*accounts: dict[str, object], **fields: object) -> dict[str, object]:
    calm = {"name": "sim", "state": "ready", "error_code": None, "since": None, "until": None}
    counts = dict.fromkeys(("waiting", "waiting_batch", "calls_last_minute", "retries_last_minute"), 0)
    return {**calm, **counts, "accounts": list(accounts)} | fields


def listing(*sites: dict[str, object], width: int = 80, every_key: bool = False) -> list[str]:
    return render_pool(sites, NOW, width, every_key=every_key)


def test_a_calm_pool_is_a_line_an_upstream_and_a_line_an_account() -> None:
    assert [
        "NAME    STATE  REQ/MIN  IMG/MIN  IN FLIGHT  IMG/DAY  USD/DAY",
        "sim     ready  0 waiting",
        "  main  ready     3/10    12/60       2/10       41   0.1435",
    ] == listing(site(account()))


def test_what_rests_has_a_line_that_says_why_and_for_how_long() -> None:
    keys = [
        key(),
        key(key="main-2", state="quarantined", error_code="key_invalid", since=NOW - 190, until=NOW + 725),
        key(key="main-3", state="disabled", held_by="alice", since=NOW - 90_000),
        key(key="main-4", state="cooling", error_code="key_model_denied", model="image-01", since=NOW, until=NOW + 9),
        key(key="main-5", state="half_open", error_code="insufficient_balance", since=NOW - 7200, until=NOW - 1),
    ]
    assert [
        "    main-2  quarantined  key_invalid, for 3 min, tried within 12 min",
        "    main-3  disabled     by alice, for 1 d",
        "    main-4  cooling      key_model_denied (only image-01), for 0 s, available within 9 s",
        "    main-5  half_open    insufficient_balance, for 2 h, one request tries it",
    ] == listing(site(account(keys=keys)), width=100)[3:]


def test_an_account_that_rests_or_allows_less_says_so_below() -> None:
    rests = account(state="cooling", error_code="account_rate_limited", since=NOW - 2, until=NOW + 13)
    shared = account(account="shared", requests_per_minute={"limit": 10, "now": 6, "used": 3, "free": 3})
    lines = listing(site(rests, shared))
    assert "account_rate_limited, for 2 s, available within 13 s" == lines[3].strip()
    assert "estimated limit: 6 requests a minute" == lines[5].strip()


def test_an_upstream_says_who_waits_and_what_it_was_asked() -> None:
    ill = {"state": "cooling", "error_code": "upstream_error", "since": NOW - 3, "until": NOW + 7}
    [_, first, second] = listing(site(**ill, waiting=12, calls_last_minute=40, retries_last_minute=8))
    assert "sim   cooling  upstream_error, for 3 s, available within 7 s, 12 waiting, 40" == first
    assert "calls in the last minute, 8 of them retries" == second.strip()


def test_every_key_is_listed_when_asked_for() -> None:
    lines = listing(site(account(keys=[key(), key(key="main-2", declared=False)])), every_key=True)
    assert ["main-1  ready  fp-1a2b3c4d", "main-2  ready  fp-1a2b3c4d, added at run time"] == [
        line.strip() for line in lines[3:]
    ]


def worst() -> dict[str, object]:
    """All that can be long, is."""
    big = {"limit": 1_000_000, "now": 999_999, "used": 999_999, "free": 0}
    rest = {"state": "quarantined", "since": NOW - 10**8, "until": NOW + 10**8, "held_by": LONG}
    keys = [key(key=LONG, error_code="account_connection_limited", model="m" * 128, **rest)]
    rooms = dict.fromkeys(("requests_per_minute", "images_per_minute", "concurrency"), big)
    spent = {"images_today": 123_456_789, "spend_today_usd": "1234567.890123"}
    full = account(account=LONG, error_code="account_token_limited", keys=keys, **rest, **rooms, **spent)
    return site(full, name=LONG, error_code="upstream_error", waiting=100_000, calls_last_minute=10**6, **rest)


@pytest.mark.parametrize("width", [80, 81, 100, 200])
@pytest.mark.parametrize("every_key", [False, True])
def test_no_line_is_longer_than_the_terminal_whatever_the_names(width: int, every_key: bool) -> None:
    lines = listing(worst(), site(account()), width=width, every_key=every_key)
    assert [] == [line for line in lines if len(line) > width]
    text = " ".join(" ".join(lines).split())
    assert "…" in text or width == 200
    assert "account_token_limited" in text


def test_a_wide_terminal_shows_long_names_whole() -> None:
    assert LONG in "\n".join(listing(worst(), width=200))


def test_a_pool_without_accounts_is_listed() -> None:
    assert ["NAME  STATE  REQ/MIN  IMG/MIN  IN FLIGHT  IMG/DAY  USD/DAY", "sim   ready  0 waiting"] == listing(site())


@pytest.mark.parametrize(("width", "expected"), [(63, LONG), (7, "aaa…zzz"), (6, "aaa…zz"), (2, "a…"), (1, "…")])
def test_a_long_name_loses_its_middle(width: int, expected: str) -> None:
    assert expected == cut(LONG, width)


def test_numbers_and_spans_stay_short() -> None:
    numbers = [0, 999, 1000, 9999, 10_000, 100_000, 999_999, 1_000_000, 123_456_789]
    assert ["0", "999", "1k", "9999", "10k", "100k", "999k", "1M", "123M"] == [short(number) for number in numbers]
    assert ["0 s", "0 s", "59 s", "1 min", "1 h", "2 d"] == [span(s) for s in (-5, 0, 59, 119, 3600, 200_000)]


def test_a_key_from_birth_to_end(ask: Ask) -> None:
    made = ask("add", TARGET, stdin=f"{SECRET}\n")
    assert (0, "") == (made.returncode, made.stderr)
    added, probed = made.stdout.split("\n", 1)
    assert re.fullmatch(rf"{TARGET} \(fp-[0-9a-f]{{8}}\) added\.", added)
    assert re.fullmatch(rf"{TARGET} works \(\d+\.\d s\)\.\nState: ready\.\n", probed)
    assert re.search(r" main-2 +ready +fp-[0-9a-f]{8}, added at run time", ask("list", "--keys").stdout)
    assert f"{TARGET}: disabled.\n" == ask("disable", TARGET).stdout
    assert re.search(r" main-2 +disabled +by admin, for \d+ s", ask("list").stdout)
    assert f"{TARGET}: draining.\n" == ask("drain", TARGET).stdout
    assert f"{TARGET}: enabled.\n" == ask("enable", TARGET).stdout
    removed = ask("remove", TARGET, "--yes")
    assert (0, added.replace("added", "removed") + "\n") == (removed.returncode, removed.stdout)
    check_refused(ask("remove", TARGET, "--yes"), "main-2")
    check_refused(ask("remove", "sim/main/main-1", "--yes"), "configuration")


def test_an_account_is_held_back_as_a_key_is(ask: Ask) -> None:
    assert "sim/main: disabled.\n" == ask("disable", "sim/main").stdout
    assert re.search(r"\n  main +disabled .*\n +by admin, for \d+ s\n", ask("list").stdout)
    assert "sim/main: draining.\n" == ask("drain", "sim/main").stdout
    assert "sim/main: enabled.\n" == ask("enable", "sim/main").stdout
    check_refused(ask("disable", "sim/nobody"), "nobody")
    check_refused(ask("disable", "nowhere/main"), "nowhere", "sim")


def test_the_secret_may_come_from_a_variable_or_a_file(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    of_variable = ask("add", TARGET, "--secret-env", "NEW_SECRET", "--json", NEW_SECRET=SECRET)
    assert 0 == ask("remove", TARGET, "--yes").returncode
    of_file = ask("add", TARGET, "--secret-file", str(tmp_path / "secret"), "--json")
    assert json.loads(of_variable.stdout)["fingerprint"] == json.loads(of_file.stdout)["fingerprint"]


def test_a_secret_that_is_not_where_it_should_be_is_one_line(ask: Ask, tmp_path: Path) -> None:
    check_refused(ask("add", TARGET, "--secret-env", "NOT_SET"), "NOT_SET", "--secret-file")
    check_refused(ask("add", TARGET, "--secret-file", str(tmp_path)), str(tmp_path), "--secret-env")
    check_refused(ask("add", TARGET, stdin="\n"), "standard input", "--secret-env")
    refused = ask("add", TARGET, stdin="sk canary")
    check_refused(refused, "the secret cannot be used: it holds a space")
    assert "canary" not in refused.stderr


def test_a_secret_that_is_typed_is_not_echoed(gateway: Gateway) -> None:
    known = environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    with terminal([sys.executable, "-m", "gateway", "pool", "add", TARGET], known) as (process, screen):
        shown = read_until(screen, b": ")
        os.write(screen, f"{SECRET}\n".encode())
        shown += read_until(screen, b" added.")
        assert 0 == process.wait(30)
    assert f"Secret of {TARGET}: ".encode() in shown
    assert b"canary" not in shown


@contextmanager
def terminal(command: list[str], known: dict[str, str]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A process with a terminal of its own, as a person has; the screen can be read and typed on."""
    screen, inside = pty.openpty()
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=known, start_new_session=True)
    os.close(inside)
    try:
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def read_until(screen: int, end: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + 30
    while end not in shown and time.monotonic() < deadline:
        shown += os.read(screen, 1024)
    return shown


def test_a_new_account_has_the_limits_of_the_options(ask: Ask) -> None:
    limits = ("--requests-per-minute", "20", "--images-per-minute", "30", "--max-concurrency", "4", "--weight", "7")
    assert 0 == ask("add", "sim/more/more-1", *limits, stdin=SECRET).returncode
    assert re.search(r"\n  more +ready +0/20 +0/30 +0/4 +0 +0\.00\n", ask("list").stdout)


def test_a_probe_tells_whether_a_key_works(ask: Ask) -> None:
    done = ask("probe", "sim/main/main-1")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"sim/main/main-1 works \(\d+\.\d s\)\.\nState: ready\.\n", done.stdout)


def test_a_probe_of_a_key_that_does_not_work_is_1_with_the_reason(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(upstream("sim", "minimax", "http://127.0.0.1:1"))
    done = run("pool", "probe", "sim/main/main-1", IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert (1, "") == (done.returncode, done.stderr)
    assert "sim/main/main-1 does not work: connect_failed" in done.stdout
    assert fits(done.stdout)


@pytest.mark.parametrize("command", ["add", "remove", "enable", "disable", "drain", "probe", "secret"])
@pytest.mark.parametrize("target", ["", "sim", "sim/", "//", "sim/main/main-1/x", "sim/main/ x"])
def test_a_target_that_is_none_is_wrong_usage(command: str, target: str) -> None:
    if (command, target) == ("enable", "sim"):
        pytest.skip("it is the upstream")
    done = run("pool", command, target, IMAGEGATE_URL="http://127.0.0.1:9", IMAGEGATE_ADMIN_KEY="x")
    assert (2, "") == (done.returncode, done.stdout)
    assert "UPSTREAM/ACCOUNT" in done.stderr


def test_a_target_goes_into_the_path_as_it_is(ask: Ask) -> None:
    check_refused(ask("disable", "sim/main/..%2f?x=1#y"), "There is no")


@pytest.mark.parametrize(
    "command", [("list",), ("add", TARGET), ("disable", TARGET), ("enable", TARGET), ("probe", TARGET)]
)
def test_json_is_the_answer_of_the_api(ask: Ask, command: tuple[str, ...]) -> None:
    if command[0] != "add":
        ask("add", TARGET, stdin=SECRET)
    done = ask(*command, "--json", stdin=SECRET)
    assert (0, "") == (done.returncode, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert {"data", "key", "works"} & set(answer)
    assert SECRET not in done.stdout


def test_a_secret_is_replaced_and_never_shown(ask: Ask) -> None:
    ask("add", TARGET, stdin=SECRET)
    done = ask("secret", TARGET, "--secret-env", "NEW_SECRET", NEW_SECRET=f"{SECRET}-2")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.match(rf"{TARGET} \(fp-[0-9a-f]{{8}}\) has a new secret\.\n{TARGET} works", done.stdout)
    assert SECRET not in done.stdout
    check_refused(ask("secret", "sim/main/main-1", stdin=SECRET), "is configured")
    both = ask("secret", TARGET, "--secret-env", "X", "--secret-file", "y", X=SECRET)
    assert (2, "") == (both.returncode, both.stdout)


def test_the_audit_tells_of_the_pool_next_to_the_tenants(ask: Ask, gateway: Gateway) -> None:
    ask("add", TARGET, stdin=SECRET)
    ask("disable", "sim/main")
    known = {"IMAGEGATE_URL": gateway.url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
    told = run("audit", **known).stdout
    assert re.search(rf"admin  pool\.add  {TARGET}\n", told)
    assert re.search(r"admin  pool\.disable  sim/main\n", told)
    assert "tenant.create  acme" in told
    assert fits(told)
    assert "acme" not in run("audit", "--upstream", "sim", **known).stdout
    check_refused(run("audit", "--upstream", "sim", "--tenant", "acme", **known), "together")


def test_the_reasons_of_a_running_gateway_are_listed(ask: Ask, gateway: Gateway, simulator: Simulator) -> None:
    gateway.generate(prompt="[code=2049]")
    listed = ask("list").stdout
    assert re.search(r"\n    main-1 +quarantined +key_invalid, for \d+ s, tried within \d+ (s|min)\n", listed)
    assert fits(listed)
