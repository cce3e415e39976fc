"""The bill when gateways are killed, and when clients leave: nothing reserved is left, and the books agree."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from tests.support.harness import Gateway, MakeGateway, Simulator, admin, new_key, simulating, wait_until
from tests.support.loading import PRICE_MICROS, Load, prompt_of, receipts, records, send_to, wait_until_settled
from tests.support.processes import start_gateway, used, write_configuration

LEASE_S = 2


@pytest.mark.slow
def test_20_kills_under_load_leave_nothing_reserved_and_books_that_agree(redis_url: str, tmp_path: Path) -> None:
    """Three books, request by request: what the clients got, what the ledger says, what the simulator bills.

    A killed process may leave orders that it had noted and that never reached the simulator: they are unconfirmed in
    the ledger and on no invoice. Everything else agrees to the image.
    """
    chance = random.Random(20261124)
    with simulating(latency_s=0.15) as simulator:
        configuration = write_configuration(tmp_path, redis_url, simulator.url, LEASE_S)
        started = [start_gateway(configuration) for _ in range(2)]
        try:
            key = new_key(started[0][1], "acme")
            urls = [url for _, url in started]
            with Load(send_to(urls, key), clients=16) as load:
                for turn in range(20):
                    time.sleep(chance.uniform(0.1, 0.6))
                    victim = turn % 2
                    started[victim][0].kill()
                    started[victim][0].wait()
                    started[victim] = start_gateway(configuration)
                    urls[victim] = started[victim][1]
            url = started[0][1]
            wait_until_settled(url)
            compare(records(url, "acme"), receipts(simulator), set(load.images))
            counters, total = used(url, "acme"), admin(url, "GET", "/usage?tenant=acme").json()["total"]
            verified = admin(url, "GET", "/usage/verify?tenant=acme").json()
        finally:
            for process, _ in started:
                process.kill()
                process.wait()
    assert counters["images_today"] == counters["images_this_month"] == total["images"] + total["unconfirmed"]
    assert (counters["usd_this_month"], []) == (total["usd"], verified["differences"])
    assert load.sent > 500


def compare(lines: list[dict[str, Any]], billed: dict[str, int], served: set[str]) -> None:
    ledger = {prompt_of(line): line for line in lines}
    assert len(lines) == len(ledger)
    for name, images in billed.items():
        line = ledger[name]
        assert images == line["delivered"] + line["unconfirmed"] == line["asked"], line
    for line in lines:
        assert f"{(line['delivered'] + line['unconfirmed']) * PRICE_MICROS / 1e6:.6f}".rstrip("0") == line[
            "usd"
        ].rstrip("0")
    assert served <= {name for name, line in ledger.items() if line["delivered"]} <= set(billed)
    never_arrived = [line for name, line in ledger.items() if name not in billed]
    assert {"not_sent", "unconfirmed"} >= {line["outcome"] for line in never_arrived}
    known = sum(line["delivered"] + line["unconfirmed"] for line in lines)
    assert sum(billed.values()) == known - sum(line["unconfirmed"] for line in never_arrived)
    assert any(line["unconfirmed"] for line in lines), "no kill struck a request under way: the test shows nothing"


Hangup = Callable[[socket.socket, bytes], None]


def _before_the_body_is_complete(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request[:-3])
    time.sleep(0.1)


def _at_once(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)


def _while_the_image_is_made(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    time.sleep(0.25)


def _in_the_middle_of_the_answer(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    connection.recv(1000)


@pytest.fixture(scope="module")
def slow_simulator() -> Iterator[Simulator]:
    with simulating(latency_s=0.5) as running:
        yield running


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "hang_up",
    [_before_the_body_is_complete, _at_once, _while_the_image_is_made, _in_the_middle_of_the_answer],
    ids=lambda hang_up: hang_up.__name__.strip("_"),
)
def test_a_client_that_leaves_leaves_nothing_behind(
    make_gateway: MakeGateway, slow_simulator: Simulator, redis_url: str, hang_up: Hangup, *, is_stream: bool
) -> None:
    """What was sent is charged, and what was not is free; nothing stays open either way."""
    from tests.support.harness import upstream  # noqa: PLC0415

    slow_simulator.reset()
    gateway = make_gateway(upstream("sim", "minimax", slow_simulator.url), requests={"reservation_lease_s": LEASE_S})
    body = msgspec.json.encode({"prompt": "a cat", "n": 2, "stream": is_stream})
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {gateway.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.settimeout(20)
            hang_up(connection, head.encode() + body)
            with suppress(OSError):
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # a reset, not a goodbye
    wait_until(lambda: _is_settled(gateway, slow_simulator), "everything is settled")
    with redis.Redis.from_url(redis_url) as client:
        assert [] == list(client.keys("*:open"))
    counters, total = used(gateway.url, "acme"), gateway.admin("GET", "/usage").json()["total"]
    assert slow_simulator.images_billed() == total["images"] == counters["images_today"]
    assert 0 == total["unconfirmed"] + total["withheld"] + total["lost"]
    if hang_up in {_while_the_image_is_made, _in_the_middle_of_the_answer}:
        assert 10 == total["images"]
    if hang_up is _before_the_body_is_complete:
        assert 0 == total["requests"]


def _is_settled(gateway: Gateway, simulator: Simulator) -> bool:
    """Nothing is open, and it is not merely that nothing has begun."""
    time.sleep(0.2)
    total = gateway.admin("GET", "/usage").json()["total"]
    return used(gateway.url, "acme")["open_requests"] == 0 and simulator.images_billed() == total["images"]


@pytest.mark.slow
def test_a_client_that_sends_two_requests_and_leaves_pays_for_what_was_sent(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    """Both on one connection, the first a stream that is kept alive: its pictures are bought, so they are charged."""
    from tests.support.harness import upstream  # noqa: PLC0415

    with simulating(latency_s=1.0) as slow:
        gateway = make_gateway(
            upstream("sim", "minimax", slow.url),
            server={"sse_keepalive_s": 0.2},
            billing={"charge_unknown_outcomes": False},
        )
        body = msgspec.json.encode({"prompt": "a cat", "n": 2, "stream": True})
        host, port = gateway.url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {gateway.api_key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        for _ in range(3):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(2 * (head.encode() + body))
                time.sleep(0.3)
        wait_until(lambda: _is_settled(gateway, slow) and slow.images_billed() > 0, "everything is settled")
        total = gateway.admin("GET", "/usage").json()["total"]
    assert (6, 0) == (total["images"], total["unconfirmed"])
