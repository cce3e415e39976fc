"""The black hole swallows and lets go; the balancer asks who is ready and sends nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.network import Balancer, BlackHole

pytestmark = pytest.mark.anyio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1000):
        writer.write(piece)
    writer.close()


@asynccontextmanager
async def hole(folder: Path) -> AsyncIterator[BlackHole]:
    target = await asyncio.start_unix_server(echo, str(folder / "socket"))
    found = BlackHole(folder / "socket")
    server = await found.start()
    try:
        yield found
    finally:
        server.close()
        target.close()


async def test_what_is_swallowed_comes_when_the_hole_opens_and_is_lost_when_it_is_cut(tmp_path: Path) -> None:
    async with hole(tmp_path) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(b"one")
        assert b"one" == await reader.readexactly(3)
        found.swallow()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(3), 0.3)
        found.open(is_cut=False)
        assert b"two" == await asyncio.wait_for(reader.readexactly(3), 10)
        found.swallow()
        writer.write(b"six")
        await asyncio.sleep(0.1)
        found.open(is_cut=True)
        with suppress(ConnectionResetError):
            assert b"" == await asyncio.wait_for(reader.read(3), 10)
        writer.close()


@asynccontextmanager
async def gateway(number: int, *, is_ready: bool) -> AsyncIterator[Any]:
    """Answers with its number."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"%d" % number)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(number=number, port=port, is_alive=True, is_ready=is_ready)
    finally:
        server.close()


async def ask(balancer: Balancer, name: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
    writer.write(f"POST / HTTP/1.1\r\nx-request-id: {name}\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_the_balancer_asks_the_ready_ones_and_remembers_who_was_asked() -> None:
    async with gateway(1, is_ready=True) as one, gateway(2, is_ready=False) as two, gateway(3, is_ready=True) as three:
        balancer = Balancer(lambda: [one, two, three])
        server = await balancer.start()
        answers = [await ask(balancer, f"r-{turn}") for turn in range(4)]
        server.close()
    assert {b"1": 2, b"3": 2} == {number: answers.count(number) for number in set(answers)}
    assert [int(answer) for answer in answers] == [balancer.served[f"r-{turn}"][-1] for turn in range(4)]


async def test_it_goes_on_to_the_next_where_a_connection_is_refused_and_says_so_where_nobody_is_left() -> None:
    async with gateway(1, is_ready=True) as one:
        gone: Any = SimpleNamespace(number=0, port=1, is_alive=True, is_ready=True)
        balancer = Balancer(lambda: [gone, one])
        server = await balancer.start()
        assert [b"1", b"1"] == [await ask(balancer, "r") for _ in range(2)]
        server.close()
        nobody = Balancer(lambda: [gone])
        server = await nobody.start()
        assert (await ask(nobody, "r")).startswith(b"HTTP/1.1 503 ")
        assert {} == nobody.served
        server.close()
