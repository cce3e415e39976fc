"""The console's JavaScript: pure functions in node, types by TypeScript, and the rules that keep it small and safe."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from gateway.cli import app
from tests.clients.programs import Packages, install

HERE: Final = Path(__file__).parent
STATIC: Final = HERE.parents[1] / "gateway" / "api" / "console" / "static"
FIRST_VIEW: Final = ("index.html", "app.css", "main.js", "core.js", "overview.js", "chart.js")
FIRST_VIEW_MAX_BYTES: Final = 60_000
JS_LINES_MAX, CSS_LINES_MAX = 3500, 700
TYPESCRIPT: Final = Packages("typescript", ("typescript@7.0.2",), node=20)


def test_pure_functions(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    for path in (*STATIC.glob("*.js"), HERE / "modules.test.js"):
        shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    told = subprocess.run(
        ["node", "--test", "--test-reporter=tap"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == told.returncode, told.stdout[-4000:]
    assert re.search(r"^# pass [1-9]", told.stdout, re.MULTILINE)


@pytest.mark.slow
def test_types() -> None:
    compiler = install(TYPESCRIPT) / "node_modules" / ".bin" / "tsc"
    told = subprocess.run(
        [compiler, "-p", HERE / "tsconfig.json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert "" == told.stdout
    assert 0 == told.returncode


def test_nothing_parses_html_and_nothing_is_inline() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|\beval\(|new Function|setHTML|https?://(?!www\.w3\.org/2000/svg|localhost|example\.com)"
    )
    found = [(path.name, match[0]) for path in STATIC.glob("*.js") for match in forbidden.finditer(path.read_text())]
    assert [] == found
    page = (STATIC / "index.html").read_text()
    assert [] == re.findall(r"<style|style=|\son\w+=|<script(?![^>]*src=)", page)


def test_the_commands_that_pages_show_exist() -> None:
    program = typer.main.get_command(app)
    shown = [text for path in STATIC.glob("*.js") for text in re.findall(r'[`"]imagegate ([^`"$]+)', path.read_text())]
    assert 30 < len(shown)
    assert [] == [text for text in shown if not _exists(program, text.split())]


def _exists(command: Any, words: list[str]) -> bool:
    """Tells if the first words name a command, and the others are no unknown options."""
    while words and words[0][0] != "-" and hasattr(command, "commands"):
        command = command.commands.get(words.pop(0))
    options = {option for each in getattr(command, "params", ()) for option in (*each.opts, *each.secondary_opts)}
    return command is not None and all(word in options for word in words if word.startswith("--"))


def test_it_stays_small() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in STATIC.iterdir()}
    assert JS_LINES_MAX >= sum(count for path, count in lines.items() if path.suffix == ".js")
    assert CSS_LINES_MAX >= sum(count for path, count in lines.items() if path.suffix == ".css")
    assert FIRST_VIEW_MAX_BYTES >= sum(len(gzip.compress((STATIC / name).read_bytes())) for name in FIRST_VIEW)


def test_the_overview_loads_no_other_module() -> None:
    imported = {
        name
        for path in FIRST_VIEW
        if path.endswith(".js")
        for name in re.findall(r'^import .* from "\./([^"]+)"', (STATIC / path).read_text(), re.MULTILINE)
    }
    assert imported <= set(FIRST_VIEW)
