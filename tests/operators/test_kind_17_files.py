"""Kind 17: a file of tenants and keys, its plan and its mistakes."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import check_refused, fits, run
from tests.support.harness import ADMIN_KEY, Gateway
from tests.support.operators import Shows


def ask(gateway: Gateway, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return run(*arguments, stdin=stdin, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)


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
        (f"tenants = {'[' * 5000}", "its TOML is nested too deeply"),
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
