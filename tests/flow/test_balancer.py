"""Gateways behind a real load balancer, HAProxy with the file of deploy/: restarts, deaths, clients' addresses.

Gateways that are restarted listen on addresses of their own (127.0.0.11 ...): their ports stay free meanwhile.
"""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.config import load as load_settings
from gateway.domain.errors import ERROR_SPECS, Outcome
from tests.support.balancing import FILE, NAMES, HAProxy, haproxy, needs_haproxy
from tests.support.harness import MakeGateway, Simulator, new_key, simulating, wait_until
from tests.support.loading import Failure, Load, check_books, prompt_of, receipts, records, send_to, wait_until_settled
from tests.support.processes import Answer, start_gateway, workers_of, write_configuration
from tests.support.scarce import occupied, scarce, wait_for_queue

CLIENTS = 500
LATENCY_S = 4.0
LEASE_S = 3
CLIENT = "127.0.0.77"
"""An address of this machine's that is not the proxy's."""
UP_S = 90.0


def test_the_file_gives_requests_their_time_and_restarts_theirs() -> None:
    """Its figures beside the defaults: images may take `deadline_s`, and checks notice within `shutdown_delay_s`."""
    text = FILE.read_text("utf-8")
    settings = load_settings(str(FILE.parents[2] / "config/imagegate.toml"), {})
    minutes = [int(found) for found in re.findall(r"timeout (?:client|server) (\d+)m", text)]
    (checks,) = re.findall(r"inter (\d+)s fastinter (\d+)ms fall (\d+)", text)
    inter_s, fast_ms, fall = (int(figure) for figure in checks)
    assert 2 == len(minutes)
    assert min(minutes) * 60 > settings.requests.deadline_s
    assert inter_s + (fall - 1) * fast_ms / 1000 < settings.server.shutdown_delay_s


def test_what_the_file_has_sent_to_another_gateway_is_free() -> None:
    """It does so at 503: no fault of that status leaves in doubt whether an image was bought."""
    assert ["retry-on conn-failure 503"] == re.findall("retry-on .*", FILE.read_text("utf-8"))
    assert Outcome.UNKNOWN not in {row.outcome for row in ERROR_SPECS.values() if row.status == 503}


@contextmanager
def process_group(configuration: Path) -> Iterator[list[tuple[subprocess.Popen[bytes], str]]]:
    """Three gateways; whoever is put into the list is ended with them."""
    started = [start_gateway(configuration, "--host", f"127.0.0.{11 + index}") for index in range(3)]
    try:
        yield started
    finally:
        for process, _ in started:
            process.kill()
            process.wait()


@pytest.mark.slow
@needs_haproxy
def test_a_rolling_restart_answers_all_of_500_clients_and_bills_each_image_once(redis_url: str, tmp_path: Path) -> None:
    """Every gateway is ended with its share of the 500 under way, and replaced at its own address before the next."""
    with simulating(latency_s=LATENCY_S) as simulator:
        configuration = write_configuration(tmp_path, redis_url, simulator.url)
        with process_group(configuration) as started, haproxy(tmp_path, [url for _, url in started]) as balancer:
            wait_until(lambda: all(balancer.is_up(name) for name in NAMES), "all are up", UP_S)
            key = new_key(started[0][1], "acme")
            assert [404, 404] == [httpx.get(balancer.url + path).status_code for path in ("/metrics", "/admin/v1/pool")]
            with Load(send_to([balancer.url], key), CLIENTS, spread_s=LATENCY_S) as load:
                for place, name in enumerate(NAMES):
                    load.wait_until_all_are_at_it()
                    restart(started, place, configuration)
                    wait_until(partial(balancer.is_up, name), f"{name} is back", UP_S)
            check_books(load, started[0][1], simulator)
            assert load.sent > CLIENTS


def restart(started: list[tuple[subprocess.Popen[bytes], str]], place: int, configuration: Path) -> None:
    """As a service manager does: end it, wait for that, start it again."""
    process, url = started[place]
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(120), "it drains and ends well"
    host, port = url.removeprefix("http://").split(":")
    started[place] = start_gateway(configuration, "--host", host, "--port", port)


@pytest.mark.slow
@needs_haproxy
def test_a_worker_that_is_killed_fails_its_own_requests_alone(redis_url: str, tmp_path: Path) -> None:
    """It is stopped first, so that its requests can be counted: each fails once, is settled, and is told so."""
    with simulating(latency_s=1.0) as simulator:
        configuration = write_configuration(tmp_path, redis_url, simulator.url, LEASE_S)
        process, url = start_gateway(configuration, "--workers", "4")
        try:
            with haproxy(tmp_path, [url]) as balancer:
                wait_until(lambda: balancer.is_up("one") and len(workers_of(process)) == 4, "all serve", UP_S)
                balancer.tell("disable health gateways/one")  # a check would be counted as a request
                key = new_key(url, "acme")
                with Load(send_to([balancer.url], key), 100, spread_s=1.0) as load:
                    wait_until(lambda: len(load.images) > 2 * load.clients, "none is at its first request", UP_S)
                    victim, held = stop_the_busiest(workers_of(process), int(url.rpartition(":")[2]))
                    os.kill(victim, signal.SIGKILL)
                    wait_until(lambda: len(workers_of(process) - {victim}) == 4, "another takes its place", UP_S)
                    served = len(load.images)
                    wait_until(lambda: len(load.images) > served + 200, "the others are served", UP_S)
                wait_until_settled(url)
                check_deaths(load, held, records(url, "acme"), receipts(simulator))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def stop_the_busiest(workers: set[int], port: int) -> tuple[int, int]:
    """Of those who serve this port: its process id, and how many connections it has."""
    victim = max(workers, key=lambda worker: connections(worker, port))
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: all(is_stopped(thread) for thread in Path(f"/proc/{victim}/task").iterdir()), "it has stopped")
    return victim, connections(victim, port)


def is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def connections(process: int, port: int) -> int:
    """Those that a process has accepted on a port and that are still open."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {row[9] for row in table if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return len(established & set(sockets(process)))


def sockets(process: int) -> Iterator[str]:
    """Only root lists the files of a gateway."""
    folder = Path(f"/proc/{process}/fd")
    if not os.access(folder, os.R_OK):
        pytest.skip("needs root")
    for descriptor in folder.iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                yield found[1]


def check_deaths(load: Load, held: int, lines: list[dict[str, Any]], billed: dict[str, int]) -> None:
    """What was answered was settled before. What failed is settled, unconfirmed, or was never noted or sent."""
    failed = {failure.prompt for failure in load.failures}
    assert (held, held) == (len(failed), len(load.failures))
    assert held > 0
    assert {(502, "upstream_error", "false")} == {told(failure) for failure in load.failures}
    delivered = {prompt_of(line): line["delivered"] for line in lines if line["delivered"]}
    assert set() == load.images.items() - delivered.items()
    assert delivered.keys() - load.images.keys() <= failed
    assert {prompt_of(line) for line in lines} - delivered.keys() <= failed
    assert set() == delivered.items() - billed.items()
    lost = {prompt: images for prompt, images in billed.items() if prompt not in delivered}
    assert lost.keys() <= failed
    unconfirmed = {prompt_of(line): line["unconfirmed"] for line in lines if line["unconfirmed"]}
    assert lost.items() <= unconfirmed.items()


def told(failure: Failure) -> tuple[int, object, str | None]:
    assert isinstance(failure.answer, Answer), failure
    return failure.answer.status, failure.answer.code, failure.answer.headers.get("x-should-retry")


@pytest.mark.slow
@needs_haproxy
def test_a_client_that_hangs_up_leaves_the_queue(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path
) -> None:
    gateway = make_gateway(scarce(simulator.url))
    with haproxy(tmp_path, [gateway.url]) as balancer:
        wait_until(lambda: balancer.is_up("one"), "it is up", UP_S)
        with occupied(gateway, 5):
            with begin(balancer, gateway.api_key):
                wait_for_queue(gateway, 1)
            wait_for_queue(gateway, 0)
    assert 1 == simulator.images_billed()


@contextmanager
def begin(balancer: HAProxy, key: str) -> Iterator[None]:
    """Send a request, and hang up in the end."""
    body = msgspec.json.encode({"prompt": "a cat"})
    host, port = balancer.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        yield


@needs_haproxy
def test_where_no_gateway_listens_the_balancer_answers_as_one_would(tmp_path: Path) -> None:
    """A client may come again: nothing was sent."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with haproxy(tmp_path, [f"127.0.0.1:{nobody.getsockname()[1]}"]) as balancer:
            answer = httpx.post(f"{balancer.url}/v1/images/generations", json={}, verify=False)
    assert (503, "gateway_unavailable") == (answer.status_code, answer.json()["error"]["code"])
    assert ("5", "application/json") == (answer.headers["retry-after"], answer.headers["content-type"])
    assert "x-should-retry" not in answer.headers


@pytest.mark.slow
@needs_haproxy
@pytest.mark.parametrize(
    ("trusted", "seen"), [(["127.0.0.1"], CLIENT), ([], "127.0.0.1")], ids=["trusted", "not trusted"]
)
def test_the_log_has_the_client_of_a_trusted_balancer_whatever_the_client_claims(
    redis_url: str, simulator: Simulator, tmp_path: Path, trusted: list[str], seen: str
) -> None:
    """The second request goes past the balancer: a stranger's word for where he comes from."""
    more = f"[server]\ntrusted_proxies = {trusted}\nshutdown_delay_s = 0\n[logs]\nclient_address = true\n"
    process, url = start_gateway(write_configuration(tmp_path, redis_url, simulator.url, more=more))
    try:
        with haproxy(tmp_path, [url]) as balancer:
            wait_until(lambda: balancer.is_up("one"), "it is up", UP_S)
            for address in (balancer.url, url):
                with httpx.Client(transport=httpx.HTTPTransport(local_address=CLIENT)) as client:
                    assert 401 == client.get(f"{address}/v1/models", headers={"x-forwarded-for": "6.6.6.6"}).status_code
            wait_until(lambda: len(clients_logged(tmp_path)) == 2, "both are logged")
    finally:
        process.kill()
        process.wait()
    assert [seen, CLIENT] == clients_logged(tmp_path)


def clients_logged(folder: Path) -> list[str]:
    """The addresses in the lines of requests for models."""
    lines = [json.loads(line) for log in folder.glob("*.log") for line in log.read_text("utf-8").splitlines()]
    return [line["client"] for line in lines if line.get("route") == "/v1/models"]
