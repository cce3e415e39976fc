"""A request counts for its tenant's concurrency from before its body is read until its response is."""

from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
import redis

from tests.support.harness import Gateway, MakeGateway, new_key, upstream, wait_until
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.memory import MB, begin, picture_reply
from tests.support.strangers import connected

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def provider() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture
def gateway(make_gateway: MakeGateway, provider: Hostile) -> Gateway:
    """Of a tenant that may have three requests at once."""
    provider.begin(Plan((picture_reply(4 * MB), "close")))
    started = make_gateway(upstream("sim", "minimax", provider.url))
    return Gateway(started.url, new_key(started.url, "three", limits={"concurrency": 3}))


def concurrency(gateway: Gateway) -> int:
    used: int = gateway.admin("GET", "/tenants/three").json()["used"]["concurrency"]
    return used


def refused(gateway: Gateway) -> tuple[int, bool]:
    answer = gateway.generate(prompt="x")
    return answer.status_code, "concurrent requests" in answer.text


def test_bodies_that_stall_count(gateway: Gateway, redis_url: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(gateway.url)) for _ in range(8)]
        for client in clients:
            client.sendall(begin(gateway, 1000, "/v1/images/generations", b"{"))
        wait_until(lambda: concurrency(gateway) == 3, "three are counted")
        assert (429, True) == refused(gateway)
    wait_until(lambda: concurrency(gateway) == 0, "they have ended")
    with redis.Redis.from_url(redis_url) as client_of_redis:
        assert [] == list(client_of_redis.keys("*:transfers"))
    assert 200 == gateway.generate(prompt="x").status_code


def test_responses_that_are_not_read_count(gateway: Gateway) -> None:
    body = msgspec.json.encode({"prompt": "x"})
    with ExitStack() as stack:
        for count in (1, 2, 3):
            client = stack.enter_context(connected(gateway.url, receive_bytes=4096))
            client.sendall(begin(gateway, len(body), "/v1/images/generations", body))
            assert b"HTTP/1.1 200" == client.recv(12)
            assert count == concurrency(gateway)
        assert (429, True) == refused(gateway)
    wait_until(lambda: concurrency(gateway) == 0, "they have ended")
    assert 200 == gateway.generate(prompt="x").status_code


def test_a_body_that_comes_late_counts_once(gateway: Gateway) -> None:
    body = msgspec.json.encode({"prompt": "x"})
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, len(body), "/v1/images/generations"))
        wait_until(lambda: concurrency(gateway) == 1, "its body is awaited")
        client.sendall(body)
        assert b"HTTP/1.1 200" == client.recv(12)
        while not client.recv(MB).endswith(b"}"):
            pass
    wait_until(lambda: concurrency(gateway) == 0, "it has ended")
