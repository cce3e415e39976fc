"""Gateways of one machine share an embedded Redis: none of them takes it along when it ends."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import new_key, simulating, wait_until
from tests.support.loading import Load, check_books, send_to
from tests.support.processes import start_gateway, write_configuration

pytestmark = pytest.mark.slow

CLIENTS = 10
LATENCY_S = 0.1
REQUESTS = 100
"""After each change: more than a second of them, in which an outage would show."""


@pytest.mark.parametrize(
    ("options", "how"),
    [
        pytest.param((), signal.SIGTERM, id="one process"),
        pytest.param(("--workers", "2"), signal.SIGTERM, id="two workers", marks=pytest.mark.slow),
        pytest.param((), signal.SIGKILL, id="killed", marks=pytest.mark.slow),
    ],
)
def test_a_rolling_restart_beside_an_embedded_redis_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...], how: signal.Signals
) -> None:
    """Each gateway ends beside its successor, which has all clients by then, and none of them is refused."""
    folder = tmp_path_factory.mktemp("e")
    with simulating(latency_s=LATENCY_S) as simulator:
        configuration = write_configuration(folder, "embedded", simulator.url, more="[server]\nshutdown_delay_s = 0\n")
        started = [started_on(configuration, options)]
        try:
            urls = [started[0][1]]
            with Load(send_to(urls, new_key(urls[0])), CLIENTS) as load:
                for _ in range(2):
                    wait_for_requests(load)
                    started.append(started_on(configuration, options))
                    urls[0] = started[-1][1]
                    wait_for_requests(load)  # the former gateway has answered all of its own
                    end(started[-2][0], how)
                    wait_for_requests(load)
            assert [] == load.failures
            check_books(load, urls[0], simulator)
        finally:
            for process, _ in started:
                process.kill()
                process.wait()


def started_on(configuration: Path, options: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], str]:
    directory = {"IMAGEGATE_REDIS__EMBEDDED_DIR": str(configuration.parent / "r")}
    return start_gateway(configuration, *options, secrets=directory)


def wait_for_requests(load: Load) -> None:
    sent = load.sent
    wait_until(lambda: load.sent >= sent + REQUESTS, "requests are answered")


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    assert (0 if how is signal.SIGTERM else -how) == process.wait(60)
