"""The configuration files that we ship."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from gateway.config import Settings, Table, load, schema, upstreams

CONFIG = Path(__file__).parents[2] / "config"
TABLES = [
    kind for kind in (vars(schema) | vars(upstreams)).values() if isinstance(kind, type) and issubclass(kind, Table)
]


@pytest.mark.parametrize("name", ["imagegate.toml", "demo.toml"])
def test_every_shipped_file_is_valid(name: str) -> None:
    loaded = load(str(CONFIG / name), {})

    assert "image-01" == loaded.models[0].id


def test_every_setting_stands_in_the_annotated_file() -> None:
    text = (CONFIG / "imagegate.toml").read_text("utf-8")
    known = {field.name for kind in TABLES for field in msgspec.structs.fields(kind)} - {"env", "file", "keys"}

    written = set(re.findall(r"^[# ]*([a-z0-9_]+) *=", text, re.MULTILINE))
    written |= set(re.findall(r"[{,] ?([a-z0-9_]+) = ", text))  # of tables in one line
    tables = set(re.findall(r"^[# ]*\[+(?:\w+\.)*(\w+)\]+", text, re.MULTILINE))

    assert set() == known - written - tables


def test_every_setting_of_the_annotated_file_is_explained() -> None:
    """By a comment behind it, or by the lines above it."""
    lines = (CONFIG / "imagegate.toml").read_text("utf-8").splitlines()
    silent = [
        line
        for above, line in pairwise(lines)
        if re.match(r"(# )?[a-z0-9_]+ = ", line) and not re.search(r" # ", line[2:]) and not above.startswith("# ")
    ]
    assert [] == silent


def test_the_annotated_file_tells_the_defaults() -> None:
    document = tomllib.loads((CONFIG / "imagegate.toml").read_text("utf-8"))
    differs_on_purpose = {("server", "host"), ("admin", "key")}
    defaults = Settings(upstreams=(), models=())

    told = {
        (table, name): value
        for table, values in document.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    compared = told.keys() - differs_on_purpose
    meant = {(table, name): msgspec.json.encode(getattr(getattr(defaults, table), name)) for table, name in compared}

    assert meant == {key: msgspec.json.encode(told[key]) for key in compared}
