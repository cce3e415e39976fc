"""The audit of dependencies, against a database of our own."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
KNOWN = {
    "id": "TEST-2026-1",
    "summary": "it is a test",
    "affected": [
        {
            "package": {"name": "lamp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class _Database(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = {"vulns": [KNOWN]} if asked["package"]["name"] == "lamp" else {}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def database() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, url: str, *options: str, package: str = "lamp") -> subprocess.CompletedProcess[str]:
    lock = folder / "requirements.lock"
    lock.write_text(f"{package}==1.0 --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, str(AUDIT), "--osv-url", url, *options, str(lock)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_known_vulnerability_is_named_and_fails(tmp_path: Path) -> None:
    with database() as url:
        done = audit(tmp_path, url)
    assert (1, "lamp 1.0: TEST-2026-1, fixed in: 1.1\n") == (done.returncode, done.stderr)


def test_without_one_it_is_green(tmp_path: Path) -> None:
    with database() as url:
        done = audit(tmp_path, url, package="table")
    assert (0, "audited: packages 1, known vulnerabilities 0\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_database_that_does_not_answer_is_told_and_fails_where_it_is_required(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/v1/query"
    done, required = audit(tmp_path, url), audit(tmp_path, url, "--required")
    assert (0, 1) == (done.returncode, required.returncode)
    assert done.stderr.startswith("NOT AUDITED: the database of vulnerabilities does not answer (")
