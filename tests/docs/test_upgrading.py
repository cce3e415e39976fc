"""docs/upgrading.md knows the schema that is in force: its version, and every key of it."""

import re
from pathlib import Path

import pytest

from gateway import redis
from gateway.config.schema import Redis
from gateway.redis import PREFIX
from gateway.scheduler import scripts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
VERSION = int(re.fullmatch(r"ig(\d+)", PREFIX)[1])  # type: ignore[index] # no version is a failure as well


def _section(version: int) -> str:
    """Its text, up to the next heading; empty where there is none."""
    found = re.search(rf"^### ig{version}$(.+?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _first_column(docstring: str | None) -> list[str]:
    """The names in a module's table of keys."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]* \| [^|]* \| [^|]+ \|$", docstring or "", re.MULTILINE)
    return [row for row in rows if row not in {"key", "name"}]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_every_version_of_the_schema_has_a_section_that_says_something(version: int) -> None:
    assert len(_section(version).split()) > 5


def test_the_section_of_the_schema_in_force_says_what_comes_of_the_one_before() -> None:
    assert f"From `ig{VERSION - 1}`" in _section(VERSION)


def test_a_gateway_uses_the_schema_in_force_by_default() -> None:
    assert PREFIX == Redis().key_prefix


def test_every_key_of_the_schema_is_named_in_its_section() -> None:
    """A key that is added needs a line on what is lost without it, and a thought on who else reads it."""
    keys = _first_column(redis.__doc__)
    named = set(re.findall(r"`([^`]+)`", _section(VERSION)))

    assert len(keys) > 20
    assert [] == [key for key in keys if key not in named]


def test_every_key_of_a_pool_is_named_in_the_section() -> None:
    names = [name for row in _first_column(scripts.__doc__) for name in row.split(", ")]
    named = set(re.findall(r"`([^`]+)`", _section(VERSION)))

    assert len(names) > 15
    assert [] == [name for name in names if name not in named]


def test_the_rights_in_the_configuration_are_those_of_the_schema_in_force() -> None:
    """A Redis user that may only touch the prefix before would stop the next start."""
    told = (ROOT / "config" / "imagegate.toml").read_text("utf-8")

    assert {PREFIX} == set(re.findall(r"[~&](ig\d+):\*", told))
