"""What a refused request counts, what is kept of it, and what it may cost the others."""

import select
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import pytest
import redis

from tests.support.harness import Gateway, MakeGateway, Simulator, wait_until
from tests.support.memory import begin
from tests.support.scarce import occupied, pool, scarce
from tests.support.strangers import connected

GENERATIONS = "/v1/images/generations"
NATIVE = "/v1/image_generation"


@pytest.fixture
def client(redis_url: str) -> "redis.Redis":
    return redis.Redis.from_url(redis_url, decode_responses=True)


def commands(client: "redis.Redis") -> int:
    stats: dict[str, Any] = client.info("stats")
    return int(stats["total_commands_processed"])


@pytest.mark.parametrize(
    ("path", "body"), [(GENERATIONS, {"prompt": ""}), (GENERATIONS, {"n": "x"}), (NATIVE, {"model": "image-01"})]
)
def test_what_is_refused_for_its_content_counts_as_a_request_of_its_minute(
    gateway: Gateway, path: str, body: dict[str, object]
) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 4}})
    for _ in range(8):
        gateway.post(path, body)
    assert 429 == gateway.generate(prompt="a cat").status_code
    usage = gateway.admin("GET", "/tenants/acme").json()["used"]
    assert 4 == usage["requests_last_minute"]


def test_what_was_never_sent_counts_and_leaves_neither_record_nor_ticket(
    make_gateway: MakeGateway, simulator: Simulator, client: "redis.Redis"
) -> None:
    gateway = make_gateway(scarce(simulator.url, max_wait_s=0))
    with occupied(gateway, 3.0):
        for _ in range(20):
            assert 429 == gateway.post(GENERATIONS, {"prompt": "x"}, x_imagegate_max_wait="0").status_code
        reservations = list(client.scan_iter("ig3:{acme}:reservation:*"))
        usage = gateway.admin("GET", "/tenants/acme").json()["used"]
        records = list(client.scan_iter("ig3:{acme}:ledger:*"))
        [sums] = [client.hgetall(name) for name in client.scan_iter("ig3:{acme}:sums:*")]
    assert (1, 21, []) == (len(reservations), usage["requests_last_minute"], records)
    assert ["20"] == [count for name, count in sums.items() if "|not_sent|" in name]
    assert 0 == len(gateway.admin("GET", "/usage/verify").json().get("differences", []))


def test_a_key_whose_requests_are_refused_soon_costs_redis_nothing(
    make_gateway: MakeGateway, client: "redis.Redis"
) -> None:
    gateway = make_gateway(server={"rejections_per_second": 2})
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 0}})
    texts = []
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {gateway.api_key}"}) as http:
        for _ in range(20):
            http.post(GENERATIONS, json={"prompt": "x"})
        before = commands(client)
        for _ in range(4):  # each is answered at the end of a second
            answer = http.post(GENERATIONS, json={"prompt": "x"})
            texts.append((answer.status_code, answer.headers.get("retry-after"), "were refused" in answer.text))
        asked = commands(client) - before
    assert (429, "1", True) in texts
    assert asked < 200  # what runs beside, and two refusals a second


def send(gateway: Gateway, stack: ExitStack, count: int) -> list[socket.socket]:
    body = b'{"prompt":"x"}'
    clients = [stack.enter_context(connected(gateway.url)) for _ in range(count)]
    for client in clients:
        client.sendall(begin(gateway, len(body), GENERATIONS, body))
    return clients


def admitted(gateway: Gateway) -> int:
    """Requests of the last minute; each took a call to Redis."""
    used: int = gateway.admin("GET", "/tenants/acme").json()["used"]["requests_last_minute"]
    return used


def test_hang_ups_beyond_the_burst_are_refused_before_redis_is_asked_however_many_are_in_flight(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    """A burst of 20 and 2 a second: 60 wait at once in the first wave, and few in a later one."""
    site = scarce(simulator.url, limits={"requests_per_minute": 1}, max_wait_s=60)
    gateway = make_gateway(site, server={"rejections_per_second": 2})
    assert 200 == gateway.generate(prompt="the only one of its minute").status_code
    counts = []
    for _ in range(4):
        before = admitted(gateway)
        with ExitStack() as stack:
            clients = send(gateway, stack, 60)
            refused = partial(select.select, clients, [], [], 0)
            wait_until(lambda: len(refused()[0]) + pool(gateway)["waiting"] == 60, "each is refused or waits")  # noqa: B023
        wait_until(lambda: pool(gateway)["waiting"] == 0, "all have left")
        counts.append(admitted(gateway) - before)
        time.sleep(1.1)  # a key that is refused is let in again
    assert 60 == counts[0]
    assert min(counts[1:]) <= 12, f"after 5 s without a refusal, a wave is let in whole: {counts}"


def test_an_admin_key_has_a_limit_of_its_own_at_each_address(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(admin={"key": {"env": "ADMIN_KEY"}, "requests_per_second": 1})
    answers = [gateway.admin("GET", "/tenants") for _ in range(12)]
    assert {200, 429} == {answer.status_code for answer in answers}
    assert {"1"} == {answer.headers["retry-after"] for answer in answers if answer.status_code == 429}


@pytest.mark.parametrize("setting", ["max_recent_requests", "max_records_per_day"])
def test_what_redis_keeps_of_a_tenant_is_bounded(make_gateway: MakeGateway, setting: str) -> None:
    gateway = make_gateway(ledger={setting: 2})
    assert [200, 200, 429] == [gateway.generate(prompt="a cat").status_code for _ in range(3)]


def test_a_wrong_key_is_logged_with_its_address(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """The native routes answer it with HTTP 200, as MiniMax does."""
    answer = httpx.post(f"{gateway.url}{NATIVE}", json={}, headers={"authorization": "Bearer wrong"})
    assert 200 == answer.status_code
    assert "authentication_failed" in (told := capsys.readouterr().out)
    assert "client=127.0.0.1" in told
