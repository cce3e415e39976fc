"""Providers whose calls begin tasks: the answer, the bill and the account's place, also when the gateway dies."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.metering.admission import Admission
from gateway.providers.bfl import BlackForestLabs
from tests.support.harness import (
    Gateway,
    Simulator,
    admin,
    document,
    gatewaying,
    new_key,
    simulating,
    upstream,
    wait_until,
)
from tests.support.processes import start_gateway

PRICE = "0.0035"


def configured(redis_url: str, url: str, deadline_s: float = 30) -> dict[str, object]:
    return document(redis_url, upstream("bfl", "bfl", url), requests={"deadline_s": deadline_s})


@pytest.fixture
def gateway(redis_url: str, simulator: Simulator) -> Any:
    with gatewaying(configured(redis_url, simulator.url)) as running:
        yield running


def total(gateway_url: str, tenant: str = "acme") -> dict[str, Any]:
    found: dict[str, Any] = admin(gateway_url, "GET", f"/usage?tenant={tenant}").json()["total"]
    return found


@pytest.mark.parametrize("delivery", ["b64_json", "url"])
def test_a_task_ends_with_its_image(gateway: Gateway, simulator: Simulator, delivery: str) -> None:
    simulator.reset()
    answer = gateway.generate(model="image-01", prompt="a cat", response_format=delivery)
    assert (200, True) == (answer.status_code, bool(answer.json()["data"][0][delivery]))
    assert (1, PRICE) == (simulator.images_billed(), total(gateway.url)["usd"])


def test_each_image_is_a_task(gateway: Gateway, simulator: Simulator) -> None:
    simulator.reset()
    answer = gateway.generate(model="image-01", prompt="a cat", n=4)
    assert (4, 4) == (len(answer.json()["data"]), simulator.images_billed())


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("[code=1026]", 400, "moderation_blocked"),
        ("[code=1027]", 400, "moderation_blocked"),
        ("[code=1000]", 502, "upstream_error"),
        ("[code=2013]", 400, "invalid_value"),
        ("[code=1008]", 503, "upstream_unavailable"),
        ("[code=1041]", 429, "rate_limit_exceeded"),
    ],
)
def test_a_task_that_fails_is_an_error_and_free(
    gateway: Gateway, simulator: Simulator, words: str, status: int, code: str
) -> None:
    simulator.reset()
    answer = gateway.generate(model="image-01", prompt=f"a cat {words}")
    assert (status, 0, "0.00") == (answer.status_code, simulator.images_billed(), total(gateway.url)["usd"]), (
        answer.text
    )
    assert code == answer.json()["error"]["code"]


def test_questions_that_fail_end_no_task(gateway: Gateway, simulator: Simulator) -> None:
    """The provider refuses its own key for a while, and then says that the image is ready."""
    simulator.reset()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.generate, model="image-01", prompt="a cat [delay=1]")
        wait_until(lambda: simulator.images_billed() == 1, "the task has begun")
        httpx.put(f"{simulator.url}/simulator/keys/main-1", json={"answers": 2049})
        time.sleep(2)
        httpx.put(f"{simulator.url}/simulator/keys/main-1", json={"answers": 0})
        assert 200 == asked.result().status_code
    assert 1 == simulator.images_billed()


def test_after_the_deadline_the_ledger_and_a_repeated_request_get_the_truth(
    redis_url: str, simulator: Simulator
) -> None:
    simulator.reset()
    with gatewaying(configured(redis_url, simulator.url, deadline_s=1)) as gateway:
        body = {"model": "image-01", "prompt": "a cat [delay=3]", "response_format": "b64_json"}
        first = gateway.post("/v1/images/generations", body, idempotency_key="one")
        assert (504, "upstream_timeout") == (first.status_code, first.json()["error"]["code"])
        assert (0, 1) == (total(gateway.url)["images"], total(gateway.url)["unconfirmed"])
        wait_until(lambda: total(gateway.url)["images"] == 1, "the ledger has the truth", 30)
        again = gateway.post("/v1/images/generations", body, idempotency_key="one")
        assert (200, "0.00") == (again.status_code, again.headers["x-imagegate-cost-usd"])
        assert again.json()["data"][0]["b64_json"]
        after, verified = total(gateway.url), gateway.admin("GET", "/usage/verify?tenant=acme").json()
    assert (1, 0, PRICE) == (after["images"], after["unconfirmed"], after["usd"])
    assert ([], 1) == (verified["differences"], simulator.images_billed())


def test_a_task_that_fails_after_the_deadline_is_free(redis_url: str, simulator: Simulator) -> None:
    with gatewaying(configured(redis_url, simulator.url, deadline_s=1)) as gateway:
        answer = gateway.generate(model="image-01", prompt="a cat [delay=3][code=1027]")
        assert (504, PRICE) == (answer.status_code, total(gateway.url)["usd"])
        wait_until(lambda: total(gateway.url)["unconfirmed"] == 0, "the ledger has the truth", 30)
        assert ("0.00", 0) == (total(gateway.url)["usd"], total(gateway.url)["images"])


def kept(redis_url: str, name: str) -> int:
    """How many entries a sorted set of the upstream has."""
    with redis.Redis.from_url(redis_url) as client:
        found: Any = client.zcard(f"ig3:{{pool:bfl}}:{name}")
    return int(found)


@pytest.mark.slow
def test_an_answer_that_cannot_be_read_ends_no_task(
    redis_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug: the request fails, and its task is followed."""
    read, bugs = BlackForestLabs.read_poll, ["one"]

    def fail_once(*args: Any) -> Any:
        if bugs:
            raise RuntimeError(bugs.pop())
        return read(*args)

    monkeypatch.setattr(BlackForestLabs, "read_poll", fail_once)
    with gatewaying(configured(redis_url, simulator.url)) as gateway:
        body = {"model": "image-01", "prompt": "a cat", "response_format": "b64_json"}
        with suppress(httpx.TimeoutException):  # the bug's traceback takes long to render
            assert 500 == gateway.post("/v1/images/generations", body, idempotency_key="one").status_code
        wait_until(lambda: total(gateway.url)["images"] == 1, "the ledger has the truth", 90)
        wait_until(lambda: kept(redis_url, "leases") == 0, "the account has its place back", 30)


def test_a_task_that_ends_gives_its_place_back_before_its_request_is_settled(
    redis_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a dead process is only once it has expired."""

    async def settle_not_yet(*_: object) -> bool:
        return False

    monkeypatch.setattr(Admission, "settle_late", settle_not_yet)
    with gatewaying(configured(redis_url, simulator.url, deadline_s=1)) as gateway:
        assert 504 == gateway.generate(model="image-01", prompt="a cat [delay=2][code=1027]").status_code
        assert 1 == kept(redis_url, "leases")
        wait_until(lambda: kept(redis_url, "leases") == 0, "the account has its place back", 30)
        assert 1 == kept(redis_url, "tasks_due")


def test_a_gateway_that_stops_leaves_none_of_its_ended_tasks(redis_url: str, simulator: Simulator) -> None:
    with gatewaying(configured(redis_url, simulator.url)) as gateway:
        assert 200 == gateway.generate(model="image-01", prompt="a cat").status_code
        assert 1 == kept(redis_url, "tasks_due")
    assert 0 == kept(redis_url, "tasks_due")


@pytest.mark.slow
def test_a_task_that_redis_has_lost_is_recorded_again(redis_url: str, simulator: Simulator) -> None:
    with gatewaying(configured(redis_url, simulator.url, deadline_s=1)) as gateway:
        assert 504 == gateway.generate(model="image-01", prompt="a cat [hang]").status_code
        with redis.Redis.from_url(redis_url) as client:
            client.delete("ig3:{pool:bfl}:tasks", "ig3:{pool:bfl}:tasks_due")
        wait_until(lambda: kept(redis_url, "tasks_due") == 1, "the task is recorded again", 30)


CONFIGURATION = """
[redis]
url = "{redis_url}"
[admin]
key = {{ env = "ADMIN_KEY" }}
[requests]
reservation_lease_s = 2
[[upstreams]]
name = "bfl"
provider = "bfl"
base_url = "{url}"
result_hosts = ["{url}"]
[[upstreams.accounts]]
name = "main"
requests_per_minute = 1000
max_concurrency = 1
keys = [{{ name = "main-1", secret = {{ env = "KEY" }} }}]
[[models]]
id = "image-01"
price_per_image_usd = "0.0035"
targets = [{{ upstream = "bfl", model = "flux-2-pro" }}]
"""


@pytest.mark.slow
def test_a_task_whose_gateway_is_killed_is_ended_by_another_one(redis_url: str, tmp_path: Path) -> None:
    """Killed between submission and result. The account's place stays taken, nothing is bought twice, and the request
    that is repeated with its key gets the image."""
    (tmp_path / "imagegate.toml").write_text("")
    with simulating() as simulator:
        configuration = tmp_path / "imagegate.toml"
        configuration.write_text(CONFIGURATION.format(redis_url=redis_url, url=simulator.url))
        (first, first_url), (second, url) = (start_gateway(configuration) for _ in range(2))
        try:
            key = new_key(first_url, "acme")
            body = {"model": "image-01", "prompt": "a cat [delay=40]", "response_format": "b64_json"}
            headers = {"authorization": f"Bearer {key}", "idempotency-key": "one"}
            with ThreadPoolExecutor(2) as pool:
                asked = pool.submit(
                    httpx.post, f"{first_url}/v1/images/generations", json=body, headers=headers, timeout=60
                )
                wait_until(lambda: simulator.images_billed() == 1, "the task has begun")
                time.sleep(1)
                first.kill()
                first.wait()
                with pytest.raises(httpx.TransportError):
                    asked.result()
                other = {"model": "image-01", "prompt": "a dog"}
                beside = pool.submit(
                    httpx.post,
                    f"{url}/v1/images/generations",
                    json=other,
                    headers={"authorization": headers["authorization"]},
                    timeout=120,
                )
                wait_until(lambda: total(url)["unconfirmed"] == 1, "the reservation expires", 60)
                time.sleep(5)
                assert 1 == simulator.invoice()["accounts"]["main"]["requests"]
                wait_until(lambda: total(url)["images"] >= 1, "the ledger has the truth", 120)
                assert 200 == beside.result().status_code
            again = httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60)
            assert (200, True) == (again.status_code, bool(again.json()["data"][0]["b64_json"]))
            after, verified = total(url), admin(url, "GET", "/usage/verify?tenant=acme").json()
        finally:
            for process in (first, second):
                process.kill()
                process.wait()
        account = simulator.invoice()["accounts"]["main"]
    assert (2, 0, "0.007", []) == (after["images"], after["unconfirmed"], after["usd"], verified["differences"])
    assert (2, 1) == (account["images"], account["peak_concurrency"])
