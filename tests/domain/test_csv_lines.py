"""Lines of CSV that no spreadsheet evaluates."""

import pytest

from gateway.domain.csv_lines import csv_line


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("x;=1+1", "x;'=1+1"), ("x; +1;y", "x; '+1;y"), ("=1;@2", "'=1;'@2"), ("-1.5", "-1.5"), ("a;b=1", "a;b=1")],
)
def test_a_formula_behind_a_semicolon_is_escaped_too(cell: str, expected: str) -> None:
    assert f"{expected},7\r\n" == csv_line([cell, 7])
