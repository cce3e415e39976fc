"""Requests that wait for an account: how long, what they are told, and what is left of those that leave."""

import socket
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import msgspec
import pytest
import redis

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.harness import Gateway, MakeGateway, Simulator, document, environment, new_key, serving, wait_until
from tests.support.scarce import ask, occupied, pool, scarce, wait_for_queue

GENERATIONS: Final = "/v1/images/generations"
NATIVE: Final = "/v1/image_generation"
WAIT: Final = "x-imagegate-max-wait"


@pytest.fixture
def narrow(make_gateway: MakeGateway, simulator: Simulator) -> Gateway:
    """One account that takes one call at once; a request that does not say otherwise does not wait."""
    return make_gateway(scarce(simulator.url, max_wait_s=0), server={"sse_keepalive_s": 0.05})


def native(gateway: Gateway, **headers: str) -> httpx.Response:
    return gateway.post(NATIVE, {"model": "image-01", "prompt": "x"}, **headers)


def ledger(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.admin("GET", "/usage/records?tenant=acme").json()["data"]
    return found


def never_sent(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        sums = [client.hgetall(name) for name in client.scan_iter("ig3:{acme}:sums:*")]
    return sum(int(count) for day in sums for name, count in day.items() if "|not_sent|" in name)


def hang_up(gateway: Gateway, body: object, when: Callable[[], None]) -> None:
    """Send a request over a connection of its own, and close that when it is time."""
    content = msgspec.json.encode(body)
    url = httpx.URL(gateway.url)
    head = [
        f"POST {GENERATIONS} HTTP/1.1",
        f"host: {url.host}",
        f"authorization: Bearer {gateway.api_key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        f"{WAIT}: 25",
    ]
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
        when()


@pytest.mark.parametrize("seconds", ["0", "0.0", "0.2"])
def test_who_will_not_wait_is_refused_with_when_to_come_back(narrow: Gateway, seconds: str) -> None:
    with occupied(narrow, 1.0):
        answer = narrow.post(GENERATIONS, {"prompt": "x"}, x_imagegate_max_wait=seconds)
    assert (429, "rate_limit_exceeded") == (answer.status_code, answer.json()["error"]["code"])
    assert {"message", "type", "param", "code"} == set(answer.json()["error"])
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert 1000 * float(seconds) <= int(answer.headers["x-imagegate-queue-ms"]) < 900
    assert "0" == answer.headers["x-imagegate-attempts"]


def test_who_will_not_wait_is_refused_in_the_native_format_too(narrow: Gateway, simulator: Simulator) -> None:
    with occupied(narrow, 0.6):
        answer = native(narrow, x_imagegate_max_wait="0")
    assert (200, 1002) == (answer.status_code, answer.json()["base_resp"]["status_code"])
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert 1 == len(simulator.requests())


def test_who_could_not_be_served_in_time_is_refused_at_once(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """The account's minute is full: whoever waits less than that need not wait at all."""
    gateway = make_gateway(scarce(simulator.url, limits={"requests_per_minute": 1}, max_wait_s=20))
    assert 200 == gateway.generate(prompt="x").status_code
    answer = gateway.generate(prompt="x")
    assert 429 == answer.status_code
    assert 50 <= int(answer.headers["retry-after"]) <= 61
    assert int(answer.headers["x-imagegate-queue-ms"]) < 2000


def test_who_is_refused_reads_how_long_the_accounts_are_busy(narrow: Gateway) -> None:
    """In the text as in the header: people read the one and clients the other."""
    with occupied(narrow, 4.0):
        pass
    with occupied(narrow, 1.0):
        answer, spoken = narrow.post(GENERATIONS, {"prompt": "x"}), native(narrow)
    seconds = int(answer.headers["retry-after"])
    assert 2 <= seconds <= 8, "about as long as calls have lately lasted"
    told = f"Every account that could make this image is busy for about {seconds} s."
    assert told == answer.json()["error"]["message"]
    assert abs(seconds - int(spoken.headers["retry-after"])) <= 1


@pytest.mark.parametrize("junk", ["", "soon", "-1", "1e3", "1,5", "inf", "nan", "30s", "1" * 7, ".5", "0x10"])
def test_a_wait_that_is_no_number_of_seconds_is_refused_by_its_name(
    gateway: Gateway, simulator: Simulator, junk: str
) -> None:
    answer = gateway.post(GENERATIONS, {"prompt": "x"}, x_imagegate_max_wait=junk)
    assert (400, "invalid_value", WAIT) == (
        answer.status_code,
        answer.json()["error"]["code"],
        answer.json()["error"]["param"],
    )
    assert WAIT in answer.json()["error"]["message"]
    spoken = native(gateway, x_imagegate_max_wait=junk).json()["base_resp"]
    assert 2013 == spoken["status_code"]
    assert WAIT in spoken["status_msg"]
    assert [] == simulator.requests()


@pytest.mark.parametrize("path", [GENERATIONS, NATIVE])
def test_a_request_that_waits_longer_than_the_upstream_s_own_limit_is_served(
    narrow: Gateway, simulator: Simulator, path: str
) -> None:
    with occupied(narrow, 0.8):
        waiting = ask(narrow, path, model="image-01", prompt="x", headers={"x_imagegate_max_wait": "25"})
        wait_for_queue(narrow, 1)
    answer = waiting.answer()
    assert 200 == answer.status_code
    assert 200 <= int(answer.headers["x-imagegate-queue-ms"]) < 20_000
    assert "1" == answer.headers["x-imagegate-attempts"]
    assert 2 == simulator.images_billed()
    assert 0 == pool(narrow)["waiting"]


def test_no_request_waits_beyond_its_deadline(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url), requests={"deadline_s": 1.5})
    with occupied(gateway, 1.0):
        started = time.monotonic()
        answers = [ask(gateway, prompt="x [delay=0.9]", headers={"x_imagegate_max_wait": "3600"}) for _ in range(3)]
        statuses = sorted(one.answer().status_code for one in answers)
    assert time.monotonic() - started < 10
    assert set(statuses) <= {200, 429, 504}
    assert 429 in statuses


def test_no_wait_takes_the_time_that_the_call_itself_needs(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """Half of the deadline is the call's: who is not served by then is refused, and nothing is sent."""
    gateway = make_gateway(scarce(simulator.url), requests={"deadline_s": 4})
    with occupied(gateway, 3.2):
        answer = gateway.post(GENERATIONS, {"prompt": "x"}, x_imagegate_max_wait="3600")
    assert 429 == answer.status_code
    assert "0" == answer.headers["x-imagegate-attempts"]
    assert 1 == len(simulator.requests())


def test_a_stream_is_kept_alive_while_it_waits(narrow: Gateway) -> None:
    with occupied(narrow, 1.0):
        waiting = ask(narrow, prompt="x", stream=True, headers={"x_imagegate_max_wait": "25"})
        wait_for_queue(narrow, 1)
    text = waiting.answer().text
    assert text.count(": keep-alive\n\n") >= 4
    assert "event: image_generation.completed" in text


def test_a_stream_that_waited_in_vain_tells_it_in_an_event(narrow: Gateway) -> None:
    with occupied(narrow, 1.5):
        waiting = ask(narrow, prompt="x", stream=True, headers={"x_imagegate_max_wait": "0.4"})
        text = waiting.answer().text
    assert text.startswith(": keep-alive\n\n")
    assert '"rate_limit_exceeded"' in text


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_while_waiting_leaves_the_queue_at_once_and_pays_nothing(
    narrow: Gateway, simulator: Simulator, redis_url: str, stream: bool
) -> None:
    body = {"prompt": "x", "n": 3, "stream": stream}
    with occupied(narrow, 3.0):
        hang_up(narrow, body, lambda: wait_for_queue(narrow, 1))
        wait_for_queue(narrow, 0, timeout_s=1.0)
        wait_until(lambda: never_sent(redis_url) == 1, "the one that left is settled", 2.0)
        assert [] == ledger(narrow)
    assert 1 == len(simulator.requests())


def test_a_pool_that_is_down_is_503_and_one_that_is_busy_429(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url, max_wait_s=0))
    with occupied(gateway, 0.6):
        assert 429 == gateway.generate(prompt="x").status_code
    gateway.admin("PATCH", "/pool/sim/main", {"state": "disabled"})
    answer = gateway.generate(prompt="x")
    assert (503, "no_upstream_available") == (answer.status_code, answer.json()["error"]["code"])
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    gateway.admin("PATCH", "/pool/sim/main", {"state": "ready"})
    assert 200 == gateway.generate(prompt="x").status_code


def test_a_pool_that_goes_down_meanwhile_is_told_to_who_waits(narrow: Gateway) -> None:
    """Its one account is taken out: nobody can be served any more, but the call under way is."""
    with occupied(narrow, 2.5):
        waiting = ask(narrow, prompt="x", headers={"x_imagegate_max_wait": "4"})
        wait_for_queue(narrow, 1)
        narrow.admin("PATCH", "/pool/sim/main", {"state": "draining"})
        assert waiting.answer().status_code in {429, 503}


@pytest.mark.parametrize("path", [GENERATIONS, NATIVE])
def test_a_target_without_room_is_left_for_the_next_one_after_a_while(
    make_gateway: MakeGateway, simulator: Simulator, path: str
) -> None:
    first = scarce(simulator.url, "a:a-1", name="first", fallback_after_s=0.4)
    second = scarce(simulator.url, "b:b-1", name="second")
    gateway = make_gateway(first, second)
    with occupied(gateway, 2.0, "first"):
        answer = gateway.post(path, {"model": "image-01", "prompt": "x"})
    assert 200 == answer.status_code
    assert 400 <= int(answer.headers["x-imagegate-queue-ms"]) < 1900
    assert ["a", "b"] == [request["headers"]["authorization"] for request in simulator.requests()]


def test_a_target_that_is_down_is_left_at_once(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gone = scarce(
        "http://127.0.0.1:1", "a:a-1", name="gone", fallback_after_s=20, breaker_failures=1, breaker_open_s=60
    )
    gateway = make_gateway(gone, scarce(simulator.url, "b:b-1", name="second"))
    for _ in range(2):  # the first finds out
        answer = gateway.generate(prompt="x")
        assert 200 == answer.status_code
        assert int(answer.headers["x-imagegate-queue-ms"]) < 5000
    assert ("cooling", "connect_failed") == (pool(gateway, "gone")["state"], pool(gateway, "gone")["error_code"])
    assert 1 == pool(gateway, "gone")["calls_last_minute"]


def test_the_parts_of_a_request_wait_each_on_its_own(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """302.AI takes one image a call: five of them go through two accounts that take one call at once."""
    gateway = make_gateway(scarce(simulator.url, "a:a-1", "b:b-1", provider="302ai"))
    with occupied(gateway, 0.5):
        answer = gateway.generate(prompt="x [delay=0.1]", n=5)
    assert 5 == len(answer.json()["data"])
    assert "5" == answer.headers["x-imagegate-attempts"]
    assert 6 == simulator.images_billed()


@pytest.mark.parametrize("stream", [True, False])
def test_who_waits_when_the_gateway_is_stopped_gets_an_answer_and_leaves_nothing_behind(
    redis_url: str, simulator: Simulator, stream: bool
) -> None:
    configured = document(redis_url, scarce(simulator.url))
    environ = environment(configured)
    with serving(create_app(resolve(from_document(configured, environ, "test"), environ))) as url:
        gateway = Gateway(url, new_key(url))
        slow = ask(gateway, prompt="slow [delay=20]")
        wait_until(lambda: pool(gateway)["accounts"][0]["concurrency"]["used"] == 1, "the slow call is under way")
        waiting = [ask(gateway, prompt="x", stream=stream) for _ in range(3)]
        wait_for_queue(gateway, 3)
    answers = [one.answer() for one in (slow, *waiting)]
    assert [503] * 3 == [one.status_code for one in answers[1:]]
    assert {"gateway_unavailable"} == {one.json()["error"]["code"] for one in answers[1:]}
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        left = {name: client.zcard(f"ig3:{{pool:sim}}:{name}") for name in ("queue", "leases", "active")}
        reservations = client.zcard("ig3:{acme}:open")
    assert {"queue": 0, "leases": 0, "active": 0} == left
    assert 0 == reservations
    assert 1 == len(simulator.requests())
