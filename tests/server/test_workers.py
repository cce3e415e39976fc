"""`--workers N`: who dies is replaced, and who cannot start ends the whole."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.harness import new_key, wait_until
from tests.support.processes import running, start_gateway
from tests.support.workers import configuration, log_of, wait_until_all_serve, wait_until_each_serves

__all__ = ["configuration"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(configuration: Path) -> None:
    with running(configuration, "--workers", "2") as (process, url):
        before, key = wait_until_all_serve(process), new_key(url)
        os.kill(min(before), signal.SIGKILL)
        after = wait_until_all_serve(process, min(before))
        assert max(before) in after
        body, bearer = {"prompt": "a cat"}, {"authorization": f"Bearer {key}"}
        for _ in range(4):
            assert 200 == httpx.post(f"{url}/v1/images/generations", json=body, headers=bearer).status_code
    assert 1 == log_of(configuration).count("worker_exited")


@pytest.mark.slow
def test_a_worker_that_ends_by_itself_is_replaced(configuration: Path) -> None:
    with running(configuration, "--workers", "2") as (process, _url):
        before = wait_until_all_serve(process)
        os.kill(min(before), signal.SIGTERM)
        wait_until_all_serve(process, min(before))


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_whole_with_its_reason(configuration: Path) -> None:
    """It is not tried again and again; what the others have begun they finish."""
    process, url = start_gateway(configuration, "--workers", "2")
    try:
        before = wait_until_each_serves(process, url)  # one that still starts would miss the key too
        (configuration.parent / "key").unlink()
        os.kill(min(before), signal.SIGKILL)
        assert 1 == process.wait(30)
        told = log_of(configuration)
        assert 1 == told.count("worker_start_failed") == told.count("worker_exited") - 1
        assert f"{configuration.parent}/key" in told
        assert "imagegate: a worker could not start (exit code 1); the log says why" in told
        assert "Traceback" not in told
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "no worker is left")
    finally:
        process.kill()
        process.wait()
