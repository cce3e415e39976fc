"""The README, and what it sends clients to, tell the truth, as far as a test can see."""

import re
from pathlib import Path

import pytest

from gateway.domain.errors import ERROR_SPECS, ErrorCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
FOR_CLIENTS = (ROOT / "docs" / "openai.md").read_text("utf-8")


@pytest.mark.parametrize("error_code", ErrorCode)
def test_every_fault_stands_in_the_error_table(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    rows = (line for line in FOR_CLIENTS.splitlines() if line.startswith("|"))
    lines = [line for line in rows if str(row.status) in line.split("|")[1]]

    assert any(f"`{row.code}`" in line or (row.code is None and "null" in line) for line in lines)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_linked_or_named_file_exists(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:gateway|config|tests)/[\w/.]+)`", text)

    assert [] == [path for path in [*linked, *named] if not (ROOT / path).exists()]


def test_every_command_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^\s*(?:\w+=\S+ )?make (\w+)", README, re.MULTILINE))

    assert set() == {target for target in targets if f"\n{target}:" not in makefile}
