"""An orderly end in every phase."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.demo import demo_command, ready_line
from tests.support.harness import Simulator
from tests.support.operators import Shows
from tests.support.processes import START_S, gateway_command, gateway_environ, write_configuration


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.15, 0.4, 0.8, 1.5, 3])
def test_sigterm_ends_a_start_in_every_phase(
    redis_url: str, simulator: Simulator, tmp_path: Path, shows: Shows, after_s: float
) -> None:
    """As process 1 of a container it would ignore a signal that it does not handle."""
    command = gateway_command(write_configuration(tmp_path, redis_url, simulator.url), "--port", "0")
    with subprocess.Popen(command, env=gateway_environ({}), stderr=subprocess.PIPE, text=True) as started:
        status = Path(f"/proc/{started.pid}/status")
        while not handles_sigterm(status) and started.poll() is None:  # the interpreter is starting
            time.sleep(0.005)
        time.sleep(after_s)
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=START_S)
    shows(10, f"SIGTERM {after_s} s after the start", f"exit code {started.returncode}")
    assert 0 == started.returncode
    assert "Traceback" not in errors


def handles_sigterm(status: Path) -> bool:
    [caught] = [line for line in status.read_text().splitlines() if line.startswith("SigCgt")] or ["SigCgt 0"]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_of_a_demo_prints_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, shows: Shows, number: signal.Signals
) -> None:
    home = tmp_path_factory.mktemp("h")
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    with subprocess.Popen(
        demo_command("--json"),
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        ready_line(started)
        os.killpg(started.pid, number)
        _, errors = started.communicate(timeout=START_S)
    shows(10, f"{number.name} to the process group of make run", f"exit code {started.returncode}, no traceback")
    assert "Traceback" not in errors
    assert 0 == started.returncode
