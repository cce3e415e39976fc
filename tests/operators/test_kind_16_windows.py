"""Kind 16: the program on a system that it does not run on."""

import subprocess
import sys
from collections.abc import Callable

import pytest

Shows = Callable[[int, str, str], None]
_ON_WINDOWS = """
import sys
sys.platform = "win32"
sys.modules |= dict.fromkeys(("fcntl", "resource", "termios"))  # which Windows lacks
sys.argv[0] = "imagegate"
from gateway.__main__ import main
main()
"""


@pytest.mark.parametrize("command", ["serve", "demo", "tenant list", "--version"])
def test_windows_is_refused_with_a_sentence(command: str, shows: Shows) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ON_WINDOWS, *command.split()], capture_output=True, text=True, timeout=60, check=False
    )
    shows(16, f"imagegate {command}  (on Windows)", done.stderr)
    assert (1, "") == (done.returncode, done.stdout)
    assert [
        "error: imagegate does not run on Windows: use WSL 2, a container, Linux or macOS"
    ] == done.stderr.splitlines()
