"""Every kind of Redis that a pool may live in."""

from collections.abc import Iterator

import pytest
import redis

from tests.scheduler.clocked_pool import ClockedPool
from tests.support.harness import EACH_REDIS, REDIS_BINARIES, redis_server

CLUSTER = "cluster"


@pytest.fixture(scope="session", params=[*EACH_REDIS, pytest.param(CLUSTER, marks=pytest.mark.slow)])
def any_redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == CLUSTER:
        yield CLUSTER
        return
    with redis_server(REDIS_BINARIES[request.param], tmp_path_factory.mktemp("r")) as url:
        yield url


@pytest.fixture
def any_redis(any_redis_server: str, request: pytest.FixtureRequest) -> str:
    """An empty Redis of every kind in turn, and an empty cluster."""
    if any_redis_server == CLUSTER:
        return str(request.getfixturevalue("redis_cluster"))
    with redis.Redis.from_url(any_redis_server) as client:
        client.flushall()
    return any_redis_server


@pytest.fixture
def clocked(redis_url: str) -> Iterator[ClockedPool]:
    """A pool without accounts, whose clock the test sets."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield ClockedPool(client)
