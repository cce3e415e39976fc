"""A gateway of several workers, and their states."""

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Simulator, wait_until
from tests.support.processes import workers_of, write_configuration


@pytest.fixture
def configuration(redis_url: str, simulator: Simulator, tmp_path: Path) -> Path:
    """The upstream's key is in a file, which may be taken away."""
    path = write_configuration(tmp_path, redis_url, simulator.url, more="[server]\nshutdown_delay_s = 0\n")
    (tmp_path / "key").write_text("main-1")
    path.write_text(path.read_text().replace('env = "KEY"', f'file = "{tmp_path}/key"'))
    return path


def log_of(configuration: Path) -> str:
    return "".join(log.read_text() for log in configuration.parent.glob("*.log"))


def wait_until_all_serve(process: subprocess.Popen[bytes], but: int = 0) -> set[int]:
    """Both processes, without a former one."""
    wait_until(lambda: len(workers_of(process) - {but}) == 2, "two are there")
    return workers_of(process)


def wait_until_each_serves(process: subprocess.Popen[bytes], url: str) -> set[int]:
    workers = wait_until_all_serve(process)
    for worker in workers:
        wait_until(partial(answers_without, workers - {worker}, url), "each worker serves")
    return workers


def answers_without(others: set[int], url: str) -> bool:
    """Whether the gateway answers while these workers are stopped, for less time than one may be silent."""
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        return httpx.get(f"{url}/healthz", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
