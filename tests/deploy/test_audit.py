"""The audit of dependencies, against a database of our own."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
KNOWN = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "it is a test",
    "affected": [
        {
            "package": {"name": "lamp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class _Database(BaseHTTPRequestHandler):
    answer: tuple[int, bytes] | None = None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = {"vulns": [KNOWN]} if asked["package"]["name"] == "lamp" else {}
        status, body = self.answer or (200, json.dumps(found).encode())
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def database(answer: tuple[int, bytes] | None = None) -> Iterator[str]:
    """Knows a vulnerability of `lamp`, or gives the same answer to every question."""
    handler = type("_Database", (_Database,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


UNREACHABLE = "http://127.0.0.1:1/v1/query"
TODAY = datetime.now(UTC).date()
REASON = "No database in this network."


def entry(begins: int, ends: int, reason: str = REASON) -> str:
    """Of the exception file, in days from today."""
    days = (TODAY + timedelta(begins), TODAY + timedelta(ends))
    return f"date = {days[0]}\nexpires = {days[1]}\nreason = {json.dumps(reason)}\n"


def audit(
    folder: Path, url: str, *options: str, package: str = "lamp", marker: str = "", exceptions: str | None = None
) -> subprocess.CompletedProcess[str]:
    lock, allowed = folder / "requirements.lock", folder / "exceptions.toml"
    lock.write_text(f"{package}==1.0{marker} --hash=sha256:{'0' * 64}\n")
    if exceptions is not None:
        allowed.write_text(exceptions)
    command = [sys.executable, str(AUDIT), "--osv-url", url, "--exceptions", str(allowed), *options, str(lock)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_known_vulnerability_is_named_and_fails(tmp_path: Path) -> None:
    with database() as url:
        done = audit(tmp_path, url)
    assert (1, "lamp 1.0: PYSEC-2026-1, fixed in: 1.1\n") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_without_one_it_is_green(tmp_path: Path) -> None:
    with database() as url:
        done = audit(tmp_path, url, package="table")
    assert (0, "audited: packages 1, known vulnerabilities 0\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_an_exception_for_builds_that_are_not_audited_hides_no_known_vulnerability(tmp_path: Path) -> None:
    with database() as url:
        done = audit(tmp_path, url, exceptions=f"[not_audited]\n{entry(0, 90)}")
    assert (1, "lamp 1.0: PYSEC-2026-1, fixed in: 1.1\n") == (done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_a_vulnerability_is_ignored_by_id_or_alias_until_the_entry_expires(tmp_path: Path, name: str) -> None:
    with database() as url:
        done = audit(tmp_path, url, exceptions=f'[[ignored]]\nid = "{name}"\n{entry(-1, 30)}')
        late = audit(tmp_path, url, exceptions=f'[[ignored]]\nid = "{name}"\n{entry(-30, -1)}')
        other = audit(tmp_path, url, exceptions=f'[[ignored]]\nid = "PYSEC-2026-2"\n{entry(-1, 30)}')
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"IGNORED until {TODAY + timedelta(30)}: lamp 1.0: PYSEC-2026-1: {REASON}\n"
    assert (1, 1) == (late.returncode, other.returncode)


@pytest.mark.slow
def test_a_build_that_cannot_be_audited_fails_unless_an_exception_of_today_says_why(tmp_path: Path) -> None:
    missing = audit(tmp_path, UNREACHABLE)
    expired = audit(tmp_path, UNREACHABLE, exceptions=f"[not_audited]\n{entry(-60, -1)}")
    allowed = audit(tmp_path, UNREACHABLE, exceptions=f"[not_audited]\n{entry(-1, 30)}")
    required = audit(tmp_path, UNREACHABLE, "--required")
    assert (1, 1, 0, 1) == tuple(done.returncode for done in (missing, expired, allowed, required))
    for done in (missing, expired, allowed, required):
        assert done.stderr.startswith("NOT AUDITED: the database of vulnerabilities cannot be asked (")
        assert done.stdout == ""
    assert f"expired on {TODAY - timedelta(1)}: {REASON}" in expired.stderr
    assert f"NOT AUDITED: allowed until {TODAY + timedelta(30)}: {REASON}\n" in allowed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("answer", [(500, b"out of order"), (200, b"<html>log in to this network</html>")])
def test_an_answer_that_is_not_the_database_s_is_no_audit(tmp_path: Path, answer: tuple[int, bytes]) -> None:
    with database(answer) as url:
        missing = audit(tmp_path, url)
        allowed = audit(tmp_path, url, exceptions=f"[not_audited]\n{entry(0, 90)}")
    assert (1, 0) == (missing.returncode, allowed.returncode)
    assert "NOT AUDITED: allowed until" in allowed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "exceptions",
    [
        "[not_audited",
        "[not_audited]\n",
        f"not_audited = {json.dumps(REASON)}\n",
        f"[not_audited]\n{entry(-1, 30, '  ')}",
        f"[not_audited]\n{entry(-1, 90)}",  # 91 days
        f"[not_audited]\n{entry(2, 30)}",
        f"[not_audited]\n{entry(-1, -2)}",
        f"[not_audited]\n{entry(-1, 30)}owner = 'me'\n",
        f"[not_audited]\n{entry(-1, 30).replace(str(TODAY + timedelta(30)), '2999-01-01T00:00:00')}",
        f"[not_audit]\n{entry(-1, 30)}",
        f"[[ignored]]\n{entry(-1, 30)}",
        f"[[ignored]]\nid = ['PYSEC-2026-1']\n{entry(-1, 30)}",
    ],
)
def test_a_malformed_exception_file_fails_with_and_without_an_answer(tmp_path: Path, exceptions: str) -> None:
    with database() as url:
        answered = audit(tmp_path, url, package="table", exceptions=exceptions)
    unreachable = audit(tmp_path, UNREACHABLE, exceptions=exceptions)
    assert (1, 1) == (answered.returncode, unreachable.returncode)
    assert "exceptions.toml is not valid: " in answered.stderr
    assert "Traceback" not in answered.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "marker", "said"),
    [("lamp = ", "", "cannot be audited"), ("lamp", " ; sys_platform == 'none'", "no package")],
)
def test_locks_without_a_package_fail_whatever_the_exception_file_says(
    tmp_path: Path, package: str, marker: str, said: str
) -> None:
    allowed = f"[not_audited]\n{entry(0, 90)}"
    with database() as url:
        done = audit(tmp_path, url, package=package, marker=marker, exceptions=allowed)
    assert done.returncode == 1
    assert said in done.stderr
    assert "NOT AUDITED" not in done.stderr


def test_make_check_asks_and_a_release_requires_an_answer() -> None:
    makefile = (AUDIT.parents[1] / "Makefile").read_text("utf-8")
    rules = dict(re.findall(r"^(\w+):.*\n((?:\t.+\n)+)", makefile, re.MULTILINE))
    assert "$(BIN)/python .ci/audit.py\n" in rules["check"]
    assert "$(BIN)/python .ci/audit.py --required\n" in rules["audit"]
    assert "\nmake check\n" in (AUDIT.parent / "run").read_text("utf-8")


def test_the_security_page_says_what_is_open_and_names_commands_that_exist() -> None:
    page = (AUDIT.parents[1] / "SECURITY.md").read_text("utf-8")
    makefile = (AUDIT.parents[1] / "Makefile").read_text("utf-8")
    exceptions = tomllib.loads(AUDIT.with_name("audit-exception.toml").read_text("utf-8"))
    assert ("not_audited" in exceptions) == ("`.ci/audit-exception.toml` has an entry now" in page)
    named = set(re.findall(r"`make (\w+)`", page))
    assert {"check", "audit", "sbom", "digests"} == named
    assert all(f"\n{name}:" in makefile for name in named)
