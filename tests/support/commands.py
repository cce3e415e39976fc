"""Runs commands as a user types them: in this process, or in their own if they start a server."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import structlog
from typer.testing import CliRunner

from gateway.cli import app
from tests.support.harness import ADMIN_KEY

COLUMNS: Final = 80
CONFIG: Final = """
[redis]
url = "{redis_url}"
[metrics]
port = 0
[admin]
port = 0
key = {{ env = "ADMIN_KEY" }}
[[upstreams]]
name = "sim"
provider = "minimax"
base_url = "http://127.0.0.1:1"
[[upstreams.accounts]]
name = "main"
[[upstreams.accounts.keys]]
name = "main-1"
secret = {{ env = "UPSTREAM_SECRET" }}
[[models]]
id = "image-01"
aliases = ["dall-e-3"]
price_per_image_usd = "0.0035"
[[models.targets]]
upstream = "sim"
model = "image-01"
"""
SERVING: Final = frozenset({"serve", "demo", "simulator"})
"""Commands that change their process: signals, log, memory dumps."""
Ask = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMAGEGATE_", "COLUMNS"))}
    return kept | {"UPSTREAM_SECRET": "canary-upstream", "ADMIN_KEY": ADMIN_KEY, "NO_COLOR": "1"} | more


def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    if SERVING & set(arguments[:1]):
        return run_process(*arguments, stdin=stdin, **variables)
    known = environment(**variables)
    changes: dict[str, str | None] = {**dict.fromkeys(os.environ.keys() - known.keys()), **known}
    with without_server_logs():
        done = CliRunner().invoke(app, arguments, stdin, changes, catch_exceptions=False, prog_name="imagegate")
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@contextmanager
def without_server_logs() -> Iterator[None]:
    """Excludes logs of servers in this process from a command's output."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**before)


def run_process(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    known = environment(**variables)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=known, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def fits(text: str) -> bool:
    return all(len(line) <= COLUMNS for line in text.splitlines())


def check_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Checks for exit code 1, one clear line on stderr, and no output but the report of `imagegate check`."""
    assert (1, True) == (done.returncode, not done.stdout or "\nvalid: " in done.stdout), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("imagegate: ")
    assert [] == [word for word in words if word not in line]


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gateway", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_answering(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
