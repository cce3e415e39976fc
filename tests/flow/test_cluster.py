"""The whole program on a Redis Cluster of three nodes: nothing knows of it but the address."""

import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Simulator, admin, new_key, simulating, wait_until
from tests.support.processes import ask_at_once, gateways, start_gateway, used, write_configuration

pytestmark = pytest.mark.slow

TENANTS = [f"tenant-{number}" for number in range(6)]
"""Enough that every node has some."""


def test_limits_and_bill_are_exact_on_a_cluster(redis_cluster: str, simulator: Simulator, tmp_path: Path) -> None:
    configuration = write_configuration(tmp_path, redis_cluster, simulator.url)
    with gateways(configuration) as urls:
        keys = [new_key(urls[0], name, quotas={"images_per_day": 7}) for name in TENANTS]
        bodies: list[dict[str, object]] = [{"prompt": "a cat", "response_format": "url"}] * 20
        served = [sum(answer.status == 200 for answer in ask_at_once(urls, key, bodies)) for key in keys]
        total = admin(urls[1], "GET", "/usage").json()["total"]
        verified = admin(urls[1], "GET", "/usage/verify").json()
    assert [7] * len(TENANTS) == served
    assert (7 * len(TENANTS), "0.147") == (total["images"], total["usd"])
    assert 7 * len(TENANTS) == simulator.images_billed()
    assert (len(TENANTS), []) == (verified["days"], verified["differences"])


def test_what_a_dead_process_left_on_a_cluster_is_settled(redis_cluster: str, tmp_path: Path) -> None:
    with simulating() as simulator:
        configuration = write_configuration(tmp_path, redis_cluster, simulator.url, lease_s=2)
        victim, url = start_gateway(configuration)
        try:
            keys = [new_key(url, name) for name in TENANTS]
            threads = [_send(url, key, "[delay=30]") for key in keys]
            wait_until(lambda: simulator.images_billed() == len(TENANTS), "every call is under way")
            victim.kill()
            victim.wait()
            for thread in threads:
                thread.join(20)
        finally:
            victim.kill()
            victim.wait()
        with gateways(configuration, 1) as [heir]:
            wait_until(lambda: all(used(heir, name)["open_requests"] == 0 for name in TENANTS), "everything is settled")
            total = admin(heir, "GET", "/usage").json()["total"]
    assert (len(TENANTS), 0) == (total["unconfirmed"], total["images"])


def _send(url: str, key: str, prompt: str) -> threading.Thread:
    def send() -> None:
        with suppress(httpx.TransportError):
            httpx.post(
                f"{url}/v1/images/generations",
                json={"prompt": prompt},
                headers={"authorization": f"Bearer {key}"},
                timeout=60,
                verify=False,
            )

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
