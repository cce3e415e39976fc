"""Prompts that make an upstream fail, and outages, open the circuit breaker for those alone whose calls fail."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.support.edge import post
from tests.support.harness import Gateway, Simulator, document, gatewaying, new_key, upstream, wait_until

FAILS = "[http=500]"
OPEN_S = 2


@pytest.fixture
def gateway(redis_url: str, provider: Simulator) -> Iterator[Gateway]:
    site = upstream("sim", "minimax", provider.url, "a:a-1", "b:b-1") | {"breaker_open_s": OPEN_S}
    sent_again: dict[str, dict[str, object]] = {"requests": {"max_attempts": 1}, "replays": {"unknown_outcome_s": 0}}
    with gatewaying(document(redis_url, site, **sent_again)) as started:
        yield started


@pytest.fixture
def mallory(gateway: Gateway) -> Iterator[str]:
    """The key of a tenant whose prompts fail, about twenty a second, until the test is over."""
    key, is_over = new_key(gateway.url, "mallory"), threading.Event()

    def fail() -> None:
        while not is_over.wait(0.05):
            post(gateway, key, prompt=FAILS)

    failing = threading.Thread(target=fail)
    failing.start()
    try:
        yield key
    finally:
        is_over.set()
        failing.join()


def is_open(gateway: Gateway) -> bool:
    [pool] = gateway.admin("GET", "/pool").json()["data"]
    return bool(pool["state"] == "cooling")


def cats(gateway: Gateway, count: int, pause_s: float = 0.05) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for number in range(count):
        statuses[post(gateway, gateway.api_key, prompt=f"a cat {number}").status_code] += 1
        time.sleep(pause_s)
    return statuses


def test_a_tenant_that_is_served_and_fails_once_is_served_on(gateway: Gateway, mallory: str) -> None:
    assert {200: 5} == cats(gateway, 5)
    assert 502 == post(gateway, gateway.api_key, prompt=FAILS).status_code
    time.sleep(2)  # of other failures
    assert {200: 30} == cats(gateway, 30)


def test_a_tenant_that_comes_to_an_open_breaker_is_served(gateway: Gateway, mallory: str) -> None:
    wait_until(lambda: is_open(gateway), "it opens, as nobody is served")
    assert 503 == post(gateway, mallory, prompt="a cat").status_code, "whose calls fail waits for its time"
    assert {200: 30} == cats(gateway, 30)


def test_after_an_outage_who_does_not_fail_is_served_beside_who_does(
    gateway: Gateway, provider: Simulator, mallory: str
) -> None:
    httpx.put(f"{provider.url}/simulator/outage", json={"kind": "500", "seconds": 600}, verify=False).raise_for_status()
    wait_until(lambda: 503 in cats(gateway, 5, 0.0), "the breaker is open for all")
    httpx.delete(f"{provider.url}/simulator/outage", verify=False).raise_for_status()
    wait_until(lambda: 200 in cats(gateway, 1), "its time is over, for each tenant that may try", 20 * OPEN_S)
    assert {200: 30} == cats(gateway, 30)
