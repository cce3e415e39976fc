"""Alive, able to serve, and measured; also while Redis is away."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import redis

from gateway import __version__
from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.errors import KeyState
from tests.support.harness import Gateway, MakeGateway, Simulator, document, environment, serving, upstream, wait_until
from tests.support.samples import labels, samples
from tests.support.scarce import ask, occupied, scarce, wait_for_queue


@contextmanager
def without_redis() -> Iterator[str]:
    """A gateway whose Redis does not exist."""
    with TemporaryDirectory(dir="/tmp") as directory:
        missing = f"unix://{Path(directory) / 'none.sock'}"
        configured = document(missing, upstream("sim", "minimax", "http://127.0.0.1:1"))
        environ = environment(configured)
        with serving(create_app(resolve(from_document(configured, environ, "test"), environ))) as url:
            yield url


def test_with_redis_everything_is_well(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz"):
        response = httpx.get(gateway.url + path)
        assert (200, {"status": "ok"}) == (response.status_code, response.json())
    assert ("imagegate_redis_up", {}, 1.0) in samples(gateway.url)


def test_the_memory_of_redis_is_exposed(gateway: Gateway, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        wait_until(
            lambda: "imagegate_redis_memory_used_bytes" in {name for name, *_ in samples(gateway.url)}, "it looks"
        )
        found = {name: value for name, _, value in samples(gateway.url)}
        info = client.info("memory")
    assert info["used_memory"] / 2 < found["imagegate_redis_memory_used_bytes"] < info["used_memory"] * 2
    assert info["total_system_memory"] == found["imagegate_redis_memory_max_bytes"]


def test_without_redis_it_is_alive_but_not_ready() -> None:
    with without_redis() as url:
        alive = httpx.get(f"{url}/healthz")
        assert (200, {"status": "ok"}) == (alive.status_code, alive.json())
        ready = httpx.get(f"{url}/readyz")
        assert 503 == ready.status_code
        assert {"status": "unavailable"} == ready.json()
        assert ("imagegate_redis_up", {}, 0.0) in samples(url)
        assert 200 == httpx.get(f"{url}/openapi.json").status_code


def test_without_redis_clients_are_told_to_wait() -> None:
    bearer = {"authorization": "Bearer sk-ig-" + "a" * 42}
    with without_redis() as url:
        for method, path in (("POST", "/v1/images/generations"), ("GET", "/v1/models")):
            response = httpx.request(method, url + path, headers=bearer)
            assert (503, "gateway_unavailable") == (response.status_code, response.json()["error"]["code"])
            assert "5" == response.headers["retry-after"]
        native = httpx.post(f"{url}/v1/image_generation", headers=bearer)
        assert (200, 1033) == (native.status_code, native.json()["base_resp"]["status_code"])
        assert 401 == httpx.get(f"{url}/v1/models").status_code


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
def test_operators_need_no_key(gateway: Gateway, path: str) -> None:
    assert 200 == httpx.get(gateway.url + path).status_code


def test_metrics_are_prometheus_text(gateway: Gateway) -> None:
    response = httpx.get(f"{gateway.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {name for name, _, _ in samples(gateway.url)}
    assert not [name for name in names if name.endswith("_created")]
    assert {"imagegate", "process"} == {name.partition("_")[0] for name in names}


def test_an_image_is_counted_everywhere(gateway: Gateway) -> None:
    gateway.generate(prompt="x", n=2, model="dall-e-3")
    gateway.generate(prompt="[code=1026]")
    found = samples(gateway.url)
    own = {"model": "image-01", "tenant": "acme"}
    for expected in (
        ("imagegate_images_total", own | {"upstream": "sim"}, 2.0),
        ("imagegate_requests_total", own | {"route": "/v1/images/generations", "status": "200"}, 1.0),
        ("imagegate_requests_total", own | {"route": "/v1/images/generations", "status": "400"}, 1.0),
        ("imagegate_request_errors_total", {"code": "content_input", "origin": "caller", "tenant": "acme"}, 1.0),
        ("imagegate_upstream_calls_total", {"upstream": "sim", "code": "none"}, 1.0),
        ("imagegate_upstream_calls_total", {"upstream": "sim", "code": "content_input"}, 1.0),
        ("imagegate_upstream_call_duration_seconds_count", {"upstream": "sim"}, 2.0),
        ("imagegate_overhead_seconds_count", {}, 2.0),
        ("imagegate_queue_wait_seconds_count", {}, 2.0),
        ("imagegate_upstream_calls_in_flight", {"upstream": "sim"}, 0.0),
        ("imagegate_request_duration_seconds_count", {"route": "/v1/images/generations"}, 2.0),
    ):
        assert expected in found


def test_open_connections_are_counted_until_they_are_closed(gateway: Gateway) -> None:
    def connections() -> float:
        return next(value for name, _, value in samples(gateway.url) if name == "imagegate_connections")

    host, port = gateway.url.removeprefix("http://").split(":")
    wait_until(lambda: connections() == 1, "those of the fixtures are closed")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))):
        wait_until(lambda: connections() == 3, "two more are open")
    wait_until(lambda: connections() == 1, "they are closed")


def states(gateway: Gateway, key: str = "main-1") -> set[str]:
    """The state that a key is in; every other one of it is told as 0."""
    found = {
        told["state"]: value
        for name, told, value in samples(gateway.url)
        if name == "imagegate_key_state" and told["key"] == key
    }
    assert not found or {state.value for state in KeyState} == set(found)
    return {state for state, value in found.items() if value}


@pytest.mark.parametrize(("answer", "state"), [("[code=1002]", "cooling"), ("[code=1008]", "quarantined")])
def test_the_state_of_a_key_is_a_metric(gateway: Gateway, answer: str, state: str) -> None:
    """Also where its account is what rests."""
    assert {"ready"} == states(gateway)
    gateway.generate(prompt=answer)
    assert {state} == states(gateway)


def test_the_worst_of_a_key_s_states_is_the_metric(gateway: Gateway) -> None:
    """Not its upstream's half-open breaker while nobody may use the key."""
    gateway.generate(prompt="[code=1008]")
    assert {"quarantined"} == states(gateway)
    gateway.admin("PATCH", "/pool/sim/main/main-1", {"state": "disabled"})
    assert {"disabled"} == states(gateway)


def test_a_call_that_is_not_made_again_is_no_retry(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """With one key there is no other to make it with, after its upstream failed it."""

    def retries(gateway: Gateway) -> float:
        return sum(value for name, _, value in samples(gateway.url) if name == "imagegate_retries_total")

    alone = make_gateway(upstream("sim", "minimax", simulator.url))
    alone.generate(prompt="[code=1000]")
    both = make_gateway(upstream("sim", "minimax", simulator.url, "a:a-1", "b:b-1"))
    both.generate(prompt="[code=1000]")
    assert (0, 1) == (retries(alone), retries(both))


def backs(gateway: Gateway) -> dict[str, float]:
    """When the resting key is tried again, by fault."""
    found = samples(gateway.url)
    return {
        told["code"]: value for name, told, value in found if name == "imagegate_key_cooldown_end_timestamp_seconds"
    }


def test_when_a_resting_key_is_tried_again_is_a_metric(gateway: Gateway) -> None:
    """Also where its account is what rests; not while it may be used."""
    assert {} == backs(gateway)
    before = time.time()
    gateway.generate(prompt="[code=1002]")
    ((error_code, back),) = backs(gateway).items()
    assert "account_rate_limited" == error_code
    assert before - 1 < back < before + 3600


@pytest.mark.parametrize("state", ["disabled", "draining"])
@pytest.mark.parametrize("path", ["/pool/sim/main", "/pool/sim/main/main-1"])
def test_a_person_s_word_on_a_key_or_its_account_is_a_metric(gateway: Gateway, path: str, state: str) -> None:
    gateway.admin("PATCH", path, {"state": state})
    assert {state} == states(gateway)
    gateway.admin("PATCH", path, {"state": "ready"})
    assert {"ready"} == states(gateway)


def test_an_upstream_that_cannot_be_reached_is_told_at_each_of_its_keys_and_tried_later(
    make_gateway: MakeGateway,
) -> None:
    site = upstream("sim", "minimax", "http://127.0.0.1:1", "a:a-1", "b:b-1")
    gateway = make_gateway({**site, "breaker_failures": 2, "breaker_open_s": 0.5, "max_wait_s": 0})
    gateway.generate(prompt="x")
    found = samples(gateway.url)
    for key in ("a-1", "b-1"):
        its = {"upstream": "sim", "account": key[0], "key": key, "state": "cooling"}
        assert ("imagegate_key_state", its, 1.0) in found
    wait_until(lambda: {"half_open"} == states(gateway, "a-1"), "a probe may try")


def test_the_room_of_a_pool_is_a_metric(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url, "a:a-1", "b:b-1", limits={"requests_per_minute": 5}))
    room = ("imagegate_pool_capacity_remaining", {"upstream": "sim"})
    assert (*room, 10.0) in samples(gateway.url)
    gateway.admin("PATCH", "/pool/sim/a", {"state": "draining"})
    assert (*room, 5.0) in samples(gateway.url)
    gateway.generate(prompt="x")
    assert (*room, 4.0) in samples(gateway.url)


def test_who_waits_is_a_metric(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url))
    depth = ("imagegate_queue_depth", {"upstream": "sim"})
    with occupied(gateway, 3.0):
        assert (*depth, 0.0) in samples(gateway.url)
        waiting = [ask(gateway, prompt="x") for _ in range(3)]
        wait_for_queue(gateway, 3)
        assert (*depth, 3.0) in samples(gateway.url)
        assert ("imagegate_pool_capacity_remaining", {"upstream": "sim"}, 0.0) in samples(gateway.url)
    assert [200] * 3 == [one.answer().status_code for one in waiting]
    assert (*depth, 0.0) in samples(gateway.url)


def test_what_an_account_allows_and_what_of_it_is_used_is_a_metric(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    limits = {"requests_per_minute": 5, "images_per_minute": 30, "max_concurrency": 4}
    gateway = make_gateway(scarce(simulator.url, "a:a-1", limits=limits))
    gateway.generate(prompt="x", n=3)
    found = {
        (its["resource"], its["bound"]): value
        for name, its, value in samples(gateway.url)
        if name == "imagegate_account_capacity" and (its["upstream"], its["account"]) == ("sim", "a")
    }
    told = {"requests": (5, 5, 1), "images": (30, 30, 3), "concurrency": (4, 4, 0)}
    assert found == {
        (kind, what): value
        for kind, values in told.items()
        for what, value in zip(("limit", "allowed", "used"), values, strict=True)
    }


def test_the_state_of_an_upstream_is_a_metric(make_gateway: MakeGateway) -> None:
    site = upstream("sim", "minimax", "http://127.0.0.1:1", "a:a-1")
    gateway = make_gateway({**site, "breaker_failures": 2, "breaker_open_s": 60, "max_wait_s": 0})
    state = ("imagegate_upstream_state", {"upstream": "sim", "state": "cooling"})
    assert (*state, 0.0) in samples(gateway.url)
    gateway.generate(prompt="x")
    assert (*state, 1.0) in samples(gateway.url)


def test_spills_and_waits_are_counted_where_they_happen(make_gateway: MakeGateway, simulator: Simulator) -> None:
    first = upstream("first", "minimax", "http://127.0.0.1:1", "a:a-1")
    gateway = make_gateway({**first, "max_wait_s": 0}, upstream("second", "minimax", simulator.url))
    assert 200 == gateway.generate(prompt="x").status_code
    found = samples(gateway.url)
    assert ("imagegate_fallbacks_total", {"upstream": "first"}, 1.0) in found
    assert ("imagegate_account_wait_seconds_count", {"upstream": "second"}, 1.0) in found


def test_retries_are_counted_by_what_went_wrong(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """The bad key is tried once, whichever comes first."""
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "a:dead-1", "b:b-1"))
    assert [200] * 6 == [gateway.generate(prompt="x").status_code for _ in range(6)]
    assert ("imagegate_retries_total", {"upstream": "sim", "code": "key_invalid"}, 1.0) in samples(gateway.url)


def test_what_the_process_is_and_takes_is_told(gateway: Gateway) -> None:
    found = {name: (told, value) for name, told, value in samples(gateway.url)}
    assert ({"version": __version__}, 1.0) == found["imagegate_build_info"]
    assert ({}, 1.0) == found["imagegate_workers"]
    assert ({}, 1.0) == found["imagegate_requests_in_progress"], "this scrape"
    assert found["imagegate_connections"][1] >= 1
    assert ({}, 0.0) == found["imagegate_pending_settlements"] == found["imagegate_redis_breaker_open"]


@pytest.mark.parametrize("name", ["image-01", "dall-e-2", "gpt-image-1"])
def test_a_model_is_counted_under_its_id(make_gateway: MakeGateway, name: str) -> None:
    gateway = make_gateway()
    gateway.generate(prompt="x", model=name)
    assert {"", "image-01"} == labels(gateway.url, "model")


def test_native_requests_are_counted_by_their_route(gateway: Gateway) -> None:
    gateway.post("/minimaxi/v1/image_generation", {"model": "minimaxi-image-01", "prompt": "x"})
    gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "x"})
    assert {"/minimaxi/v1/image_generation", "/v1/image_generation"} <= labels(gateway.url, "route")


def test_a_refusal_on_a_native_route_is_counted_though_it_is_200(gateway: Gateway) -> None:
    gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "[code=1026]"})
    assert (
        "imagegate_request_errors_total",
        {"code": "content_input", "origin": "caller", "tenant": "acme"},
        1.0,
    ) in samples(gateway.url)
