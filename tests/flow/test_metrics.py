"""Metrics of several workers that serve one port: each reports the sum over all."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Simulator, new_key, wait_until
from tests.support.processes import (
    EACH_OPTIONS,
    ask_at_once,
    running,
    scrape,
    start_gateway,
    total,
    workers_of,
    write_configuration,
)
from tests.support.servers import free_port

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")


def directory_of(workers: set[int]) -> Path:
    """Where they keep their numbers. Only root reads the maps of a gateway."""
    try:
        maps = Path(f"/proc/{min(workers)}/maps").read_text().split()
    except PermissionError:
        pytest.skip("needs root")
    return next(Path(word).parent for word in maps if "/imagegate-metrics-" in word)


@contextmanager
def only(worker: int, workers: set[int]) -> Iterator[None]:
    """Stops the others, for less time than their supervisor allows."""
    others = workers - {worker}
    try:
        for other in others:
            os.kill(other, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def scrape_each(url: str, workers: set[int]) -> list[str]:
    """The answer of every worker."""
    answers = []
    for worker in workers:
        with only(worker, workers):
            answers.append(scrape(url))
    return answers


def make_images(url: str, key: str, count: int) -> None:
    """The requests all at once, of one to three images."""
    bodies: list[dict[str, object]] = [
        {"prompt": "x", "n": 1 + number % 3, "response_format": "url"} for number in range(count)
    ]
    answers = ask_at_once([url], key, bodies)
    assert {200} == {answer.status for answer in answers}


@pytest.mark.slow
def test_every_worker_tells_the_invoice_also_after_one_of_them_died(
    redis_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    with running(configuration, "--workers", "4") as (process, url):
        wait_until(lambda: total(scrape(url), "imagegate_workers") == 4, "four processes serve")
        key, workers = new_key(url), workers_of(process)
        for worker in workers:  # one that is quick to accept may take all of those that come at once
            with only(worker, workers):
                make_images(url, key, 1)
        make_images(url, key, 96)
        assert [simulator.images_billed()] * 4 == [
            total(text, "imagegate_images_total") for text in scrape_each(url, workers)
        ]
        directory = directory_of(workers)
        assert sum(b"imagegate_images_total" in file.read_bytes() for file in directory.glob("*.db")) == 4

        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: len(workers_of(process) - {min(workers)}) == 4, "another takes its place")
        wait_until(lambda: total(scrape(url), "imagegate_workers") == 4, "and serves")
        assert simulator.images_billed() == total(scrape(url), "imagegate_images_total")
        make_images(url, key, 50)
        answers = scrape_each(url, workers_of(process))
        assert [simulator.images_billed()] * 4 == [total(text, "imagegate_images_total") for text in answers]
        assert {0.0} == {total(text, "imagegate_upstream_calls_in_flight") for text in answers}
        assert {150.0} == {total(text, "imagegate_settlements_total") for text in answers}
        assert 3 * 4 == len(list(directory.glob("*.db"))), "replacements continue in the files of the dead"
    assert not directory.exists()


@EACH_OPTIONS
def test_metrics_can_have_a_port_of_their_own(
    redis_url: str, simulator: Simulator, tmp_path: Path, options: tuple[str, ...]
) -> None:
    port = free_port()
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    own = f"http://127.0.0.1:{port}"
    with running(configuration, *options, METRICS__PORT=str(port)) as (_, url):
        key = new_key(url)
        make_images(url, key, 4)
        assert simulator.images_billed() == total(scrape(own), "imagegate_images_total")
        assert "imagegate_redis_up 1.0" in scrape(own)
        assert [200] * 4 == [
            httpx.get(f"{base}{path}", verify=False).status_code
            for base in (own, url)
            for path in ("/healthz", "/readyz")
        ]
        assert 404 == httpx.get(f"{url}/metrics", headers={"host": f"127.0.0.1:{port}"}, verify=False).status_code
        bearer = {"authorization": f"Bearer {key}"}
        for path in ("/v1/models", "/admin/v1/tenants", "/openapi.json", "/"):
            assert 404 == httpx.get(f"{own}{path}", headers=bearer, verify=False).status_code
        assert 200 == httpx.get(f"{url}/v1/models", headers=bearer, verify=False).status_code


@pytest.mark.slow
def test_a_scrape_is_answered_soon_while_redis_is_away(redis_url: str, simulator: Simulator, tmp_path: Path) -> None:
    """Within httpx's 5 s, and without what Redis alone knows."""
    configuration = write_configuration(tmp_path, "unix:///nowhere/redis.sock", simulator.url)
    configuration.write_text(configuration.read_text().replace("timeout_ms = 2000", "timeout_ms = 100"))
    process, url = start_gateway(configuration)
    try:
        text = scrape(url)
    finally:
        process.kill()
        process.wait()
    assert "imagegate_redis_up 0.0" in text
    assert "imagegate_queue_wait_seconds_count 0.0" in text
    assert "imagegate_key_state{" not in text
