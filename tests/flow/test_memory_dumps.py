"""What another process of the gateway's user can read of it: nothing that holds a secret."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.harness import Simulator, wait_until
from tests.support.processes import scrape, start_gateway, total, workers_of, write_configuration

SETPRIV = shutil.which("setpriv")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or (os.geteuid() == 0 and not SETPRIV), reason="needs Linux, and setpriv for root"
)
UNPRIVILEGED = [str(SETPRIV), "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Root without its capabilities is a user like others."""


def reads(pid: int, name: str) -> bool:
    """Whether another process of the same user can read a file of /proc."""
    command = [*UNPRIVILEGED, "head", "--bytes=1", f"/proc/{pid}/{name}"]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def hides(pid: int) -> bool:
    return not reads(pid, "environ")


def test_no_process_of_the_gateway_dumps_its_memory_or_shows_its_environment(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    started, url = start_gateway(configuration, "--workers", "2", launcher=UNPRIVILEGED)
    try:
        pids = [started.pid, *workers_of(started)]
        assert len(pids) == 3
        for pid in pids:
            assert reads(pid, "status")
            wait_until(partial(hides, pid), "a worker that still imports hides its environment")
            assert not reads(pid, "auxv")
            (limit,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line]
            assert ["0", "0"] == limit.split()[4:6]
        shown = scrape(url)  # they still measure themselves
        assert total(shown, "process_resident_memory_bytes") > 0
        assert total(shown, "process_open_fds") > 0
    finally:
        started.kill()
        started.wait()


def test_what_is_read_is_readable_of_a_program_that_hides_nothing() -> None:
    """The control: the same look at another program finds its environment."""
    with subprocess.Popen([*UNPRIVILEGED, "sleep", "60"]) as other:
        try:
            wait_until(lambda: reads(other.pid, "environ"), "it is readable once the launcher has become it")
        finally:
            other.kill()
