"""A gateway with workers, as far as processes go: any parent with children."""

import subprocess
import sys
import time

from chaos.gateways import kill_tree
from chaos.processes import children

PARENT = """
import subprocess, sys, time
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


def test_a_parent_is_killed_with_its_children() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    found = children(parent.pid)
    assert 2 == len(found)
    kill_tree(parent)
    parent.stdout.close()
    assert -9 == parent.returncode
    assert [] == children(parent.pid)
    deadline_s = time.monotonic() + 30
    while any(_is_running(child) for child in found) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not any(_is_running(child) for child in found)


def _is_running(pid: int) -> bool:
    """A zombie that nothing reaps has ended, too."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(told.stdout.strip()) and not told.stdout.startswith("Z")
