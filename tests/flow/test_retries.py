"""Retries that do not buy: of SDKs, after unknown outcomes, and of dead processes."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.harness import Gateway, MakeGateway, Simulator, admin, new_key, simulating, upstream, wait_until
from tests.support.processes import gateways, scrape, start_gateway, total, write_configuration

pytestmark = pytest.mark.slow

CUT = "[cut] a cat"
PATHS = ("/v1/images/generations", "/v1/image_generation")


def post(url: str, key: str, body: dict[str, Any], timeout_s: float = 30, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{url}/v1/images/generations", json=body, headers=sent, timeout=timeout_s, verify=False)


def retry(url: str, key: str, body: dict[str, Any], count: int = 1, timeout_s: float = 30) -> httpx.Response:
    return post(url, key, body, timeout_s, x_stainless_retry_count=str(count))


@pytest.fixture
def pair(redis_url: str, simulator: Simulator, tmp_path: Path) -> Iterator[list[str]]:
    """Two gateway processes."""
    with gateways(write_configuration(tmp_path, redis_url, simulator.url)) as urls:
        yield urls


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def charged(url: str) -> int:
    images: int = admin(url, "GET", "/usage").json()["total"]["images"]
    return images


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}], ids=str)
def test_an_sdk_whose_timeout_is_shorter_than_the_image_gets_it_and_pays_once(
    gateway: Gateway, simulator: Simulator, headers: dict[str, str]
) -> None:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, timeout=2, max_retries=3) as client:
        answer = client.images.with_raw_response.generate(
            prompt="[delay=4] a cat", model="image-01", extra_headers=headers
        )
    assert 1 == len(answer.parse().data or [])
    assert "true" == answer.headers["x-imagegate-replayed"]
    assert (1, 1) == (simulator.images_billed(), charged(gateway.url))


@pytest.mark.parametrize("setting", ["max_result_bytes", "max_tenant_bytes", "max_total_bytes"])
def test_a_retry_at_the_same_process_needs_no_storage(
    make_gateway: MakeGateway, simulator: Simulator, setting: str
) -> None:
    gateway = make_gateway(replays={setting: 0})
    with OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, timeout=2, max_retries=3) as client:
        answer = client.images.generate(prompt="[delay=4] a cat", model="gpt-image-1", n=9, size="2048x2048")
    assert 9 == len(answer.data or [])
    assert (9, 9) == (simulator.images_billed(), charged(gateway.url))


def test_a_retry_at_another_process_joins_the_request_of_a_client_that_left(
    pair: list[str], simulator: Simulator
) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=2] a cat", "n": 2}
    with pytest.raises(httpx.ReadTimeout):
        retry(pair[0], key, body, 0, timeout_s=0.5)
    joined = retry(pair[1], key, body)
    assert (200, "true", 2) == (joined.status_code, joined.headers["x-imagegate-replayed"], len(joined.json()["data"]))
    assert (2, 2) == (simulator.images_billed(), charged(pair[0]))


def test_a_retry_gets_what_was_delivered_to_nobody_a_while_ago(pair: list[str], simulator: Simulator) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=1] a cat", "model": "image-01"}
    with pytest.raises(httpx.ReadTimeout):
        retry(pair[0], key, body, 0, timeout_s=0.5)
    wait_until(lambda: charged(pair[0]) == 1, "the image is charged")
    time.sleep(0.5)
    found = [retry(url, key, body, count) for count, url in enumerate(reversed(pair), 1)]
    assert [200, 200] == [answer.status_code for answer in found]
    assert found[0].json() == found[1].json()
    assert 1 == simulator.images_billed()


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_a_retry_joins_a_request_whose_client_still_waits_or_has_just_been_served(
    pair: list[str], simulator: Simulator, pool: ThreadPoolExecutor, response_format: str
) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=1] a cat", "response_format": response_format}
    first = pool.submit(retry, pair[0], key, body, 0)
    wait_until(lambda: len(simulator.requests()) == 1, "the call is sent")
    joined = retry(pair[1], key, body)
    after = retry(pair[1], key, body, 2)
    assert first.result().json() == joined.json() == after.json()
    assert ("x-imagegate-replayed" in first.result().headers, joined.headers["x-imagegate-replayed"]) == (False, "true")
    assert 1 == simulator.images_billed()
    assert 2 == sum(total(scrape(url), "imagegate_replays_total") for url in pair)


@pytest.mark.parametrize("send", [post, partial(retry, count=0)])
def test_identical_requests_that_are_no_retries_are_orders_of_their_own(
    gateway: Gateway, simulator: Simulator, pool: ThreadPoolExecutor, send: Callable[..., httpx.Response]
) -> None:
    body = {"prompt": "[delay=1] a cat"}
    found = list(pool.map(lambda _: send(gateway.url, gateway.api_key, body), range(3)))
    assert [200] * 3 == [answer.status_code for answer in found]
    assert 3 == simulator.images_billed()


def test_two_retries_join_different_requests(gateway: Gateway, simulator: Simulator, pool: ThreadPoolExecutor) -> None:
    body = {"prompt": "[delay=2] a cat", "response_format": "url"}
    first = [pool.submit(retry, gateway.url, gateway.api_key, body, 0) for _ in range(2)]
    wait_until(lambda: len(simulator.requests()) == 2, "both calls are sent")
    joined = list(pool.map(lambda _: retry(gateway.url, gateway.api_key, body), range(2)))
    links = [answer.json()["data"][0]["url"] for answer in joined]
    assert 2 == len(set(links))
    assert sorted(links) == sorted(one.result().json()["data"][0]["url"] for one in first)
    assert 2 == simulator.images_billed()


def test_a_retry_of_a_refused_attempt_is_an_order(
    gateway: Gateway, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    """Otherwise an application that wants two different images of one prompt would get the same one twice."""
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"concurrency": 1}})
    body = {"prompt": "[delay=2] a cat", "response_format": "url"}
    first = pool.submit(retry, gateway.url, gateway.api_key, body, 0)
    wait_until(lambda: len(simulator.requests()) == 1, "the call is sent")
    assert 429 == retry(gateway.url, gateway.api_key, body, 0).status_code
    assert 429 == retry(gateway.url, gateway.api_key, body, 1).status_code
    link = first.result().json()["data"][0]["url"]
    assert link != retry(gateway.url, gateway.api_key, body, 2).json()["data"][0]["url"]
    assert 2 == simulator.images_billed()


def test_a_retry_after_a_free_failure_is_sent_again(gateway: Gateway, simulator: Simulator) -> None:
    body = {"prompt": "[code=1002] a cat"}
    assert [429, 429] == [retry(gateway.url, gateway.api_key, body, count).status_code for count in (0, 1)]
    assert 0 == simulator.images_billed()
    assert 2 <= len(simulator.requests())


def test_another_key_or_another_body_joins_nothing(pair: list[str], simulator: Simulator) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=1] a cat"}
    with pytest.raises(httpx.ReadTimeout):
        retry(pair[0], key, body, 0, timeout_s=0.5)
    for other_key, other_body in ((new_key(pair[0]), body), (new_key(pair[0], "globex"), body), (key, body | {"n": 2})):
        assert "x-imagegate-replayed" not in retry(pair[1], other_key, other_body).headers
    assert 5 == simulator.images_billed()


def test_an_unknown_outcome_is_not_bought_again(pair: list[str], simulator: Simulator) -> None:
    key, body = new_key(pair[0]), {"prompt": CUT}
    first, second, third = (post(url, key, body) for url in (*pair, pair[0]))
    assert [502] * 3 == [answer.status_code for answer in (first, second, third)]
    assert ["upstream_error"] * 3 == [answer.json()["error"]["code"] for answer in (first, second, third)]
    assert ["false"] * 3 == [answer.headers["x-should-retry"] for answer in (first, second, third)]
    assert [None, "true", "true"] == [one.headers.get("x-imagegate-replayed") for one in (first, second, third)]
    told, _, buy_again = first.json()["error"]["message"].partition(" It was charged. ")
    assert "To buy images nevertheless, send a new Idempotency-Key." == buy_again
    message = second.json()["error"]["message"]
    assert message.startswith(f"{told} An identical request had this outcome")
    assert "30 s" in message or "29 s" in message
    assert "Idempotency-Key" in message
    assert 1 == len(simulator.requests())
    assert 502 == post(pair[1], key, body, idempotency_key="insisting").status_code
    assert 2 == len(simulator.requests())
    lines = admin(pair[0], "GET", "/usage").json()["total"]
    assert (2, 2) == (lines["requests"], lines["unconfirmed"])


@pytest.mark.parametrize("body", [{"prompt": CUT, "stream": True}, {"prompt": CUT, "n": 2}])
def test_an_unknown_outcome_is_remembered_for_its_own_body(
    make_gateway: MakeGateway, simulator: Simulator, body: dict[str, Any]
) -> None:
    gateway = make_gateway(replays={"unknown_outcome_s": 30})
    assert [502] * 3 == [gateway.post(PATHS[0], sent).status_code for sent in ({"prompt": CUT}, body, body)]
    assert 2 == len(simulator.requests())


def test_an_unknown_outcome_says_whether_it_was_charged(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(billing={"charge_unknown_outcomes": False})
    for _ in range(2):
        answer = gateway.post(PATHS[0], {"prompt": CUT}, idempotency_key="free")
        assert "It was not charged. To buy images nevertheless, send a new" in answer.json()["error"]["message"]
    assert 1 == len(simulator.requests())


def test_an_unknown_outcome_of_a_native_request_is_not_bought_again(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(replays={"unknown_outcome_s": 30})
    found = [gateway.post(PATHS[1], {"model": "image-01", "prompt": CUT}) for _ in range(2)]
    assert [1001, 1001] == [answer.json()["base_resp"]["status_code"] for answer in found]
    assert 1 == len(simulator.requests())


def test_an_unknown_outcome_is_forgotten_in_time(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(replays={"unknown_outcome_s": 0.5})
    assert 502 == gateway.generate(prompt=CUT).status_code
    time.sleep(0.6)
    assert "x-imagegate-replayed" not in gateway.generate(prompt=CUT).headers
    assert 2 == len(simulator.requests())


def test_a_request_that_waits_for_a_killed_process_is_answered_and_nothing_is_bought_again(
    redis_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url, lease_s=2)
    (killed, url), (other, other_url) = (start_gateway(configuration) for _ in range(2))
    try:
        key, body = new_key(url), {"prompt": "[delay=30] a cat"}
        with ThreadPoolExecutor() as pool:
            lost: Future[httpx.Response] = pool.submit(retry, url, key, body, 0)
            keyed: Future[httpx.Response] = pool.submit(post, url, key, body | {"n": 2}, idempotency_key="k")
            wait_until(lambda: len(simulator.requests()) == 2, "the calls are sent")
            killed.send_signal(signal.SIGKILL)
            waiting = pool.submit(retry, other_url, key, body)
            waiting_too = pool.submit(post, other_url, key, body | {"n": 2}, idempotency_key="k")
            for one in (lost, keyed):
                assert isinstance(one.exception(), httpx.TransportError)
            assert [502, 502] == [waiting.result().status_code, waiting_too.result().status_code]
        assert 502 == retry(other_url, key, body, 2).status_code
        assert 502 == post(other_url, key, body | {"n": 2}, idempotency_key="k").status_code
        assert 2 == len(simulator.requests())
    finally:
        for process in (killed, other):
            process.kill()
            process.wait()


def test_a_stream_joins_a_stream(pair: list[str], simulator: Simulator) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=2] a cat", "stream": True}
    with pytest.raises(httpx.ReadTimeout):
        retry(pair[0], key, body, 0, timeout_s=0.5)
    assert "image_generation.completed" in retry(pair[1], key, body).text
    assert 1 == simulator.images_billed()


def test_a_client_that_leaves_while_it_waits_for_another_request_ends_its_wait(
    pair: list[str], simulator: Simulator
) -> None:
    key, body = new_key(pair[0]), {"prompt": "[delay=3] a cat"}
    for count in range(3):
        with pytest.raises(httpx.ReadTimeout):
            retry(pair[count % 2], key, body, count, timeout_s=0.4)
    wait_until(lambda: sum(scrape(url).count('status="499"') for url in pair) == 2, "two have ended")
    assert 200 == retry(pair[0], key, body, 3).status_code
    assert 1 == simulator.images_billed()


def test_one_order_has_a_limited_number_of_requests_that_join_it(
    gateway: Gateway, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    body = {"prompt": "[delay=3] a cat", "response_format": "url"}
    first = pool.submit(retry, gateway.url, gateway.api_key, body, 0)
    wait_until(lambda: len(simulator.requests()) == 1, "the call is sent")
    with ThreadPoolExecutor(40) as many:
        found = [one.status_code for one in many.map(lambda _: retry(gateway.url, gateway.api_key, body), range(40))]
    assert (32, 8) == (found.count(200), found.count(429))
    assert 200 == first.result().status_code
    assert 1 == simulator.images_billed()


def test_a_repeated_request_counts_as_a_request_and_as_no_image(gateway: Gateway, simulator: Simulator) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 2, "images_per_minute": 1}})
    found = [post(gateway.url, gateway.api_key, {"prompt": "a"}, idempotency_key="k") for _ in range(3)]
    assert [200, 200, 429] == [answer.status_code for answer in found]
    assert ["1", "0", "0"] == [answer.headers["x-ratelimit-remaining-requests"] for answer in found]
    assert 1 == simulator.images_billed()


def test_one_upstream_that_hangs_is_asked_once(stack: Any, redis_url: str, make_gateway: MakeGateway) -> None:
    """Haystack: a timeout of 30 s, an image that takes 40 s, five retries; here twenty times as fast."""
    slow = stack.enter_context(simulating(latency_s=2.0))
    gateway = make_gateway(upstream("sim", "minimax", slow.url))
    with OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, timeout=1.5, max_retries=5) as client:
        assert client.images.generate(prompt="a cat", model="gpt-image-1", quality="auto", size="1024x1024").data
    assert 1 == slow.images_billed()
