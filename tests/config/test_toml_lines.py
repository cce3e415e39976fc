"""The line of each setting, as people write files."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.toml_lines import TomlLines

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("config/*.toml"), *ROOT.glob("deploy/**/*.toml"), ROOT / "pyproject.toml"])
TEXT = '''\
# comment = 1
top = "a # b [x]"   # comment
"quoted key" = 'c\\'
dotted.inner.leaf = 1_000
[server]
text = """
[not.a.table]
a = 1 \\"""
"""
raw = \'\'\'
[[no]]
\'\'\'
when = 1979-05-27 07:32:00
list = [ # comment
  "a",  # ]
  { x = 1, y = [2,
    3] },
]
[[items]]
name = "one"
  [[items.parts]]
  id = 1
  [[items.parts]]
  id = 2
    [items.parts.more]
    deep = true
[[items]]
name = "two"
  [[items.parts]]
  id = 3
'''
EXPECTED = {
    "top": 2,
    "quoted key": 3,
    "dotted.inner.leaf": 4,
    "server": 5,
    "server.text": 6,
    "server.raw": 10,
    "server.when": 13,
    "server.list": 14,
    "server.list[0]": 15,
    "server.list[1].x": 16,
    "server.list[1].y[1]": 17,
    "items[0]": 19,
    "items[0].parts[0].id": 22,
    "items[0].parts[1]": 23,
    "items[0].parts[1].id": 24,
    "items[0].parts[1].more.deep": 26,
    "items[1].name": 28,
    "items[1].parts[0].id": 30,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_setting_has_its_line(newline: str) -> None:
    lines = TomlLines(TEXT.replace("\n", newline))
    tomllib.loads(TEXT)
    assert EXPECTED == {path: lines.find(path) for path in EXPECTED}


def test_what_is_missing_has_the_line_of_the_table_around_it() -> None:
    lines = TomlLines(TEXT)
    paths = ("server.port", "items[0].parts[1].name", "items[0].colour", "items", "nowhere", "")
    assert [5, 23, 19, 19, 0, 0] == [lines.find(path) for path in paths]


def leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting: its path and its last name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}".lstrip("."), name
            yield from leaves(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_lines_of_real_files_have_the_names(file: Path) -> None:
    text = file.read_text("utf-8")
    lines, written = TomlLines(text), text.split("\n")
    found = [
        (path, name, written[lines.find(path) - 1]) for path, name in leaves(tomllib.loads(text)) if name.isidentifier()
    ]
    assert len(found) > 3
    assert [] == [path for path, name, line in found if not re.search(rf"\b{re.escape(name)}\b", line)]


@pytest.mark.parametrize(
    "text", ["", "=", "[", "[[a]", "a = [", 'a = "x', "a = {", "a.", "a = 1 = 2", "]", '"', "\x00"]
)
def test_what_is_no_toml_ends_the_search(text: str) -> None:
    assert 1 == TomlLines(f"first = 1\n{text}").find("first")
