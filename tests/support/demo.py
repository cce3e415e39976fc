"""Runs `imagegate demo` as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@contextmanager
def process(command: list[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home)}
    started = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def demo_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "demo", "--port", "0", *options]


def ready_line(started: subprocess.Popen[str]) -> dict[str, Any]:
    assert started.stdout is not None
    line = started.stdout.readline()
    assert line, started.communicate()[1]
    found: dict[str, Any] = json.loads(line)
    return found
