"""A worker whose event loop hangs is killed and replaced; one that is merely held up is not."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.harness import new_key, wait_until
from tests.support.processes import start_gateway, workers_of
from tests.support.workers import configuration, log_of, wait_until_all_serve, wait_until_each_serves

__all__ = ["configuration"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc"),
]

HELD_UP = """
import signal, time

def spin(*_):
    while True:
        pass

signal.signal(signal.SIGRTMIN, spin)
signal.signal(signal.SIGRTMIN + 1, lambda *_: time.sleep(3600))
signal.signal(signal.SIGRTMIN + 2, lambda *_: time.sleep(2))
"""
"""Python runs this in every process at its start: these signals hold up the main thread, and with it the event loop."""
SPIN, BLOCK, NAP = signal.SIGRTMIN, signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
SUSPENDED_S = 6.0
"""Longer than a worker may be silent."""


@contextmanager
def supervised(configuration: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (configuration.parent / "sitecustomize.py").write_text(HELD_UP)
    process, url = start_gateway(configuration, "--workers", "2", secrets={"PYTHONPATH": str(configuration.parent)})
    try:
        yield process, url
    finally:
        workers = workers_of(process) if process.poll() is None else set()
        process.kill()
        process.wait()
        for pid in workers:  # nothing else ends one that hangs
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [SPIN, BLOCK, signal.SIGSTOP], ids=["it spins", "a call blocks", "it is stopped"])
def test_a_worker_that_hangs_is_replaced(configuration: Path, how: int) -> None:
    with supervised(configuration) as (process, url):
        before, key = wait_until_each_serves(process, url), new_key(url)
        os.kill(min(before), how)
        assert max(before) in wait_until_all_serve(process, min(before))
        body, bearer = {"prompt": "a cat"}, {"authorization": f"Bearer {key}"}
        for _ in range(4):
            assert 200 == httpx.post(f"{url}/v1/images/generations", json=body, headers=bearer).status_code
        assert 1 == log_of(configuration).count("worker_unresponsive")


@pytest.mark.parametrize("how", [SPIN, signal.SIGSTOP], ids=["it spins", "it is stopped"])
def test_a_worker_that_hangs_does_not_keep_the_gateway_from_ending(configuration: Path, how: int) -> None:
    with supervised(configuration) as (process, url):
        workers = wait_until_each_serves(process, url)
        os.kill(min(workers), how)
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(60)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert 1 == log_of(configuration).count("worker_unresponsive")


def test_a_worker_that_hangs_while_it_starts_does_not_either(configuration: Path) -> None:
    with supervised(configuration) as (process, url):
        starting = successor_of(min(wait_until_each_serves(process, url)), process)
        os.kill(starting, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(60)
        assert not Path(f"/proc/{starting}").exists()


def successor_of(worker: int, process: subprocess.Popen[bytes]) -> int:
    """A worker that has just begun to start, after this one was killed."""
    before = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(workers_of(process) - before) == 1, "a successor starts")
    (starting,) = workers_of(process) - before
    return starting


def test_a_machine_that_was_suspended_loses_no_worker(configuration: Path) -> None:
    """The supervisor comes back first, and sees that it waited longer than a worker may be silent."""
    with supervised(configuration) as (process, url):
        workers = wait_until_each_serves(process, url)
        for pid in (process.pid, *workers):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(SUSPENDED_S)
        for pid in (process.pid, *workers):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.5)
        time.sleep(2)
        assert workers == workers_of(process)
        assert "worker_" not in log_of(configuration)


def test_a_worker_that_is_busy_for_a_moment_is_left_alone(configuration: Path) -> None:
    with supervised(configuration) as (process, url):
        workers = wait_until_each_serves(process, url)
        for pid in workers:
            os.kill(pid, NAP)
        time.sleep(4)
        assert workers == workers_of(process)
        assert "worker_" not in log_of(configuration)


def test_a_worker_may_hang_while_it_starts_for_longer_than_while_it_serves(configuration: Path) -> None:
    with supervised(configuration) as (process, url):
        before = wait_until_each_serves(process, url)
        starting = successor_of(min(before), process)
        os.kill(starting, signal.SIGSTOP)
        time.sleep(SUSPENDED_S)
        os.kill(starting, signal.SIGCONT)
        assert starting in wait_until_all_serve(process, min(before))
        assert "worker_unresponsive" not in log_of(configuration)
