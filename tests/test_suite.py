"""Rules of the suite itself: what test files may import, and which tests `make test` leaves out."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.order import LONGEST

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
OTHER_SERVERS = {"cluster_servers", "sentinel_server", "sentinel_servers"}
"""Each starts servers of another kind than the one of `make test`."""


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{one.name}" for one in node.names))


def is_test_file(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "tests" and (parts[-1] == "conftest" or parts[-1].startswith("test_"))


def test_the_longest_files_exist() -> None:
    assert [] == [name for name in LONGEST if not (TESTS / name).is_file()]


def is_slow(marks: list[ast.expr]) -> bool:
    return any("pytest.mark.slow" in ast.unparse(mark) for mark in marks)


def marked_tests(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """The tests of a file, and whether `make test` leaves them out."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    of_file = [node.value for node in assigned if "pytestmark" in [ast.unparse(target) for target in node.targets]]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node, is_slow([*of_file, *node.decorator_list])


def names_in(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def import_problems(text: str) -> list[str]:
    if "import test_" not in text and ".test_" not in text and "conftest" not in text:
        return []
    found = {module for module in imported_modules(ast.parse(text)) if is_test_file(module)}
    return sorted(module for module in found if not module.startswith("tests.cli."))


def mark_problems(text: str) -> list[str]:
    """Tests that start another kind of server and are not marked `slow`."""
    if not any(name in text for name in OTHER_SERVERS):
        return []
    return [test.name for test, slow in marked_tests(ast.parse(text)) if names_in(test) & OTHER_SERVERS and not slow]


def kind_problems(text: str) -> list[str]:
    """Parameters over all servers of which none is marked."""
    if "REDIS_BINARIES" not in text:
        return []
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if ast.unparse(call) == "list(REDIS_BINARIES)"]


@pytest.mark.parametrize("problems_of", [import_problems, mark_problems, kind_problems])
def test_every_file_keeps_the_rule(problems_of: Callable[[str], list[str]]) -> None:
    found = {str(file.relative_to(TESTS)): problems_of(file.read_text()) for file in FILES if file != Path(__file__)}
    assert {} == {name: problems for name, problems in found.items() if problems}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("from tests.metering.test_ledger import written", ["tests.metering.test_ledger"]),
        ("from tests.metering import test_ledger", ["tests.metering.test_ledger"]),
        ("from tests.conftest import server", ["tests.conftest"]),
        ("from tests.support.harness import server", []),
    ],
)
def test_an_import_from_a_test_file_is_found(text: str, problems: list[str]) -> None:
    assert problems == import_problems(text)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("def test_a():\n    with cluster_servers(): pass", ["test_a"]),
        ("@pytest.mark.anyio\nasync def test_a():\n    with sentinel_servers(): pass", ["test_a"]),
        ("@pytest.mark.slow\ndef test_a():\n    with cluster_servers(): pass", []),
        ("pytestmark = [pytest.mark.slow]\ndef test_a():\n    with cluster_servers(): pass", []),
        ("def test_a():\n    with redis_server(): pass", []),
    ],
)
def test_a_test_on_another_server_without_the_mark_is_found(text: str, problems: list[str]) -> None:
    assert problems == mark_problems(text)


def test_parameters_over_all_servers_are_found() -> None:
    assert ["list(REDIS_BINARIES)"] == kind_problems("parametrize('kind', list(REDIS_BINARIES))")
    assert [] == kind_problems("parametrize('kind', EACH_REDIS)")
