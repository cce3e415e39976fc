"""A log pipe whose reader stalls, and a process that has no file descriptors left."""

import resource
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Simulator, wait_until
from tests.support.operators import Shows
from tests.support.processes import gateway_command, gateway_environ, start_gateway, total, write_configuration
from tests.support.servers import free_port


@pytest.mark.slow
def test_a_log_pipe_that_nobody_reads_stops_nothing(
    redis_url: str, simulator: Simulator, tmp_path: Path, shows: Shows
) -> None:
    configuration, port = write_configuration(tmp_path, redis_url, simulator.url), free_port()
    command = gateway_command(configuration, "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=gateway_environ({}), stderr=subprocess.PIPE) as started:
        try:
            wait_until(lambda: is_healthy(url), "the gateway answers", 90)
            with httpx.Client(timeout=30) as client:
                wait_until(lambda: drops_lines(client, url), "more lines than the pipe and the queue hold", 90)
                dropped = total(client.get(f"{url}/metrics").text, "imagegate_log_lines_dropped")
            shows(9, "a stderr pipe whose reader stalls", f"imagegate_log_lines_dropped {dropped:g}")
            wait_until(lambda: is_healthy(url), "the gateway answers")
        finally:
            started.kill()
            started.communicate()


def drops_lines(client: httpx.Client, url: str) -> bool:
    """Has two hundred more refusals logged; returns True once a line is dropped."""
    for _ in range(200):
        client.get(f"{url}/v1/models", headers={"authorization": "Bearer sk-wrong"})
    return total(client.get(f"{url}/metrics").text, "imagegate_log_lines_dropped") > 0


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_connections_that_cannot_be_accepted_are_logged_once(
    redis_url: str, simulator: Simulator, tmp_path: Path, shows: Shows
) -> None:
    """The limit is lowered while it runs: one that it knows bounds its connections."""
    started, url = start_gateway(write_configuration(tmp_path, redis_url, simulator.url))
    [log] = tmp_path.glob("*.log")
    try:
        used = sum(1 for _ in Path(f"/proc/{started.pid}/fd").iterdir())
        resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (used, used))
        where = httpx.URL(url)
        waiting = [socket.create_connection((where.host, where.port or 80)) for _ in range(8)]
        wait_until(lambda: "accept_failed" in log.read_text(), "it is logged")
        for connection in waiting:
            connection.close()
        [line] = [line for line in log.read_text().splitlines() if "accept_failed" in line]
        shows(9, "no file descriptors left", line)
        assert "open files" in line
    except PermissionError:
        pytest.skip("needs root")
    finally:
        started.kill()
        started.wait()
