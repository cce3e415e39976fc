"""`Idempotency-Key`, as in Stripe's API and the IETF draft."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from tests.support.asking import without_cost
from tests.support.harness import Gateway, MakeGateway, Simulator, admin, new_key, wait_until
from tests.support.processes import gateways, write_configuration

pytestmark = pytest.mark.slow

BODIES: list[dict[str, Any]] = [
    {"prompt": "a cat"},
    {"prompt": "a cat", "response_format": "url", "n": 3},
    {"prompt": "[fail=1] a cat", "n": 3},
    {"prompt": "a cat", "stream": True},
    {"prompt": "[code=1026] a cat"},
    {"prompt": "[cut] a cat"},
]


def post(url: str, key: str, body: dict[str, Any], idempotency_key: str = "k-1", **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}", "idempotency-key": idempotency_key} | headers
    return httpx.post(f"{url}/v1/images/generations", json=body, headers=sent, timeout=30, verify=False)


@pytest.fixture
def pair(redis_url: str, simulator: Simulator, tmp_path: Path) -> Iterator[list[str]]:
    """Two gateway processes."""
    with gateways(write_configuration(tmp_path, redis_url, simulator.url)) as urls:
        yield urls


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_the_same_key_and_body_get_the_first_answer(
    pair: list[str], simulator: Simulator, body: dict[str, Any]
) -> None:
    key = new_key(pair[0])
    first, second, third = (post(url, key, body) for url in (*pair, pair[0]))
    assert first.status_code == second.status_code == third.status_code
    assert without_cost(first.text) == without_cost(second.text) == without_cost(third.text)
    assert [None, "true", "true"] == [one.headers.get("x-imagegate-replayed") for one in (first, second, third)]
    assert first.headers.get("x-imagegate-missing") == second.headers.get("x-imagegate-missing")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert 1 == len(simulator.requests())
    assert 1 == admin(pair[0], "GET", "/usage").json()["total"]["requests"]


def test_the_same_key_twice_at_once_is_one_purchase(pair: list[str], simulator: Simulator) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=1] a cat"}
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda index: post(pair[index % 2], key, body), range(6)))
    assert [200] * 6 == [answer.status_code for answer in found]
    assert 1 == len({answer.text for answer in found})
    assert 1 == simulator.images_billed()


def test_the_native_format_replays_too(gateway: Gateway, simulator: Simulator) -> None:
    body = {"model": "image-01", "prompt": "a cat", "n": 2}
    first, second = (gateway.post("/v1/image_generation", body, idempotency_key="k") for _ in range(2))
    assert (first.text, "true") == (second.text, second.headers["x-imagegate-replayed"])
    assert 2 == simulator.images_billed()
    reused = gateway.post("/v1/image_generation", body | {"n": 1}, idempotency_key="k")
    assert 2013 == reused.json()["base_resp"]["status_code"]


@pytest.mark.parametrize(
    "other", [{"prompt": "a dog"}, {"prompt": "a cat", "n": 2}, {"prompt": "a cat", "stream": True}]
)
def test_the_same_key_with_another_body_is_422(gateway: Gateway, simulator: Simulator, other: dict[str, Any]) -> None:
    assert 200 == gateway.post("/v1/images/generations", {"prompt": "a cat"}, idempotency_key="k").status_code
    refused = gateway.post("/v1/images/generations", other, idempotency_key="k")
    assert (422, "idempotency_key_reused") == (refused.status_code, refused.json()["error"]["code"])
    assert ("false", "idempotency-key") == (refused.headers["x-should-retry"], refused.json()["error"]["param"])
    assert 1 == simulator.images_billed()


def test_the_same_key_with_another_body_is_422_while_the_first_is_in_flight(
    gateway: Gateway, simulator: Simulator
) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(post, gateway.url, gateway.api_key, {"prompt": "[delay=1] a cat"})
        wait_until(lambda: len(simulator.requests()) == 1, "the call is sent")
        assert 422 == post(gateway.url, gateway.api_key, {"prompt": "a dog"}).status_code
        assert 200 == first.result().status_code


def test_a_body_that_is_written_otherwise_is_the_same(gateway: Gateway, simulator: Simulator) -> None:
    spellings = (b'{"prompt": "a cat", "n": 1}', b'{"n":1,"size":"auto","prompt":"a\\u0020cat"}')
    found = [gateway.post("/v1/images/generations", body, idempotency_key="k") for body in spellings]
    assert [200, 200] == [answer.status_code for answer in found]
    assert 1 == simulator.images_billed()


def test_a_key_is_its_tenants(pair: list[str], simulator: Simulator) -> None:
    first, rotated, other = new_key(pair[0]), new_key(pair[0]), new_key(pair[0], "globex")
    body = {"prompt": "a cat"}
    found = [post(pair[1], key, body).headers.get("x-imagegate-replayed") for key in (first, rotated, other)]
    assert [None, "true", None] == found
    assert 2 == simulator.images_billed()


@pytest.mark.parametrize("key", ["", " ", '""', "k" * 256, "a\tb", "schlüssel"])
def test_a_malformed_key_is_400(gateway: Gateway, simulator: Simulator, key: str) -> None:
    refused = send_raw(gateway, f"idempotency-key: {key}".encode())
    assert b" 400 " in refused.split(b"\r\n")[0]
    assert b'"param":"idempotency-key"' in refused
    assert [] == simulator.requests()


def test_two_keys_are_400(gateway: Gateway, simulator: Simulator) -> None:
    refused = send_raw(gateway, b"idempotency-key: a\r\nidempotency-key: b")
    assert b" 400 " in refused.split(b"\r\n")[0]
    assert [] == simulator.requests()


def send_raw(gateway: Gateway, header: bytes) -> bytes:
    body = msgspec.json.encode({"prompt": "a cat"})
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {gateway.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + header + b"\r\n\r\n" + body)
        while piece := connection.recv(65_536):
            received += piece
    return received


def test_quotes_are_not_part_of_a_key(gateway: Gateway, simulator: Simulator) -> None:
    keys = ('"8e03978e-40d5"', "8e03978e-40d5")
    found = [gateway.post("/v1/images/generations", {"prompt": "a cat"}, idempotency_key=key) for key in keys]
    assert "true" == found[1].headers["x-imagegate-replayed"]
    assert 1 == simulator.images_billed()


def test_a_refusal_before_admission_is_not_remembered(gateway: Gateway, simulator: Simulator) -> None:
    assert 400 == post(gateway.url, gateway.api_key, {"prompt": "a cat", "n": 99}).status_code
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"images_per_minute": 0}})
    wait_until(lambda: post(gateway.url, gateway.api_key, {"prompt": "b"}).status_code == 429, "the limit is known")
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"images_per_minute": None}})
    wait_until(lambda: post(gateway.url, gateway.api_key, {"prompt": "a cat"}).status_code == 200, "the limit is gone")
    assert 1 == simulator.images_billed()


@pytest.mark.parametrize("fault", ["[code=1002]", "[code=1000]"])
def test_a_free_failure_that_may_pass_is_not_remembered(gateway: Gateway, simulator: Simulator, fault: str) -> None:
    """Another body under the same key is an order of its own, whether the account rests after 1002 or not."""
    at_once = {"x-imagegate-max-wait": "0"}
    prompts = (f"{fault} a cat", f"{fault} a cat", "a cat")
    found = [post(gateway.url, gateway.api_key, {"prompt": prompt}, **at_once) for prompt in prompts]
    assert [None, None, None] == [answer.headers.get("x-imagegate-replayed") for answer in found]
    assert found[-1].status_code in {200, 429}
    assert simulator.images_billed() == (found[-1].status_code == 200)


def test_a_result_that_is_not_stored_is_not_bought_again(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway, other = (make_gateway(replays={"max_result_bytes": 100}) for _ in range(2))
    bodies = ({"prompt": "a cat"}, {"prompt": "a cat", "response_format": "url"})
    found = [
        [post(one.url, gateway.api_key, body, f"k{index}") for one in (gateway, other)]
        for index, body in enumerate(bodies)
    ]
    assert [[200, 409], [200, 200]] == [[answer.status_code for answer in pair] for pair in found]
    assert "result_not_kept" == found[0][1].json()["error"]["code"]
    assert "false" == found[0][1].headers["x-should-retry"]
    assert 2 == simulator.images_billed()


@pytest.mark.parametrize(("setting", "stored"), [("max_tenant_bytes", 1), ("max_total_bytes", 1)])
def test_stored_images_have_limits(
    make_gateway: MakeGateway, redis_url: str, simulator: Simulator, setting: str, stored: int
) -> None:
    one = len(simulator_picture(make_gateway()))
    gateway = make_gateway(replays={setting: one + one // 2})
    keys = [
        new_key(gateway.url, tenant) for tenant in (("t1", "t1") if setting == "max_tenant_bytes" else ("t1", "t2"))
    ]
    for index, key in enumerate(keys):
        assert 200 == post(gateway.url, key, {"prompt": "a cat"}, f"k{index}").status_code
    with redis.Redis.from_url(redis_url) as client:
        wait_until(lambda: len(list(client.scan_iter("*:outcome:*"))) == len(keys), "the outcomes are stored")
        assert stored == len(list(client.scan_iter("*:result:*")))
        assert all(client.ttl(name) > 0 for name in client.scan_iter("ig3:*res*"))


def simulator_picture(gateway: Gateway) -> str:
    found: str = gateway.generate(prompt="a cat").json()["data"][0]["b64_json"]
    return found


def test_the_number_of_keys_is_limited(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(replays={"max_keys_per_tenant": 2})
    found = [post(gateway.url, gateway.api_key, {"prompt": "a cat"}, f"k{index}") for index in (0, 1, 2, 1)]
    assert [200, 200, 429, 200] == [answer.status_code for answer in found]
    assert "idempotency keys" in found[2].json()["error"]["message"]


def test_redis_holds_no_prompt_and_everything_in_it_expires(
    gateway: Gateway, redis_url: str, simulator: Simulator
) -> None:
    for index, body in enumerate(BODIES):
        post(gateway.url, gateway.api_key, body, f"secret-key-{index}")
        post(
            gateway.url,
            gateway.api_key,
            body | {"user": "x"},
            f"secret-key-{index}",
            **{"x-stainless-retry-count": "1"},
        )
    kinds = {b"string": "get", b"hash": "hgetall", b"zset": "zrange"}
    with redis.Redis.from_url(redis_url) as client:
        names = [
            name for name in client.scan_iter("ig3:*") if any(part in name for part in (b"idem", b"outcome", b"orders"))
        ]
        assert names
        for name in names:
            held = getattr(client, kinds[client.type(name)])(
                *((name, 0, -1) if client.type(name) == b"zset" else (name,))
            )
            assert b"secret-key" not in name
            assert "cat" not in str(held)
            assert client.ttl(name) > 0
