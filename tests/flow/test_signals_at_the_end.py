"""SIGHUP comes when it comes, also in the last moments of a gateway that ends."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.harness import simulating
from tests.support.processes import start_gateway, write_configuration


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)], ids=["one process", "two"]
)
def test_a_reload_that_is_asked_for_while_it_ends_does_not_kill_it(
    redis_url: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The interpreter gives handlers back before its process ends: that moment is met by asking all the time."""
    with simulating() as simulator:
        configuration = write_configuration(
            tmp_path, redis_url, simulator.url, more="[server]\nshutdown_delay_s = 0\nshutdown_timeout_s = 300\n"
        )
        process, _ = start_gateway(configuration, *options)
        try:
            process.send_signal(signal.SIGTERM)
            deadline_s = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline_s:
                process.send_signal(signal.SIGHUP)
                time.sleep(0.001)
            assert 0 == process.returncode
        finally:
            process.kill()
            process.wait()
