"""The network: the connection to Redis, which can become a black hole, and the balancer."""

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from chaos.gateways import Gateway

_PIECE_BYTES: Final = 65_536
_HEAD_BYTES: Final = 16_384
_CONNECT_S: Final = 2.0
_REQUEST_ID: Final = re.compile(rb"\r\nx-request-id: *([^\r\n]+)", re.IGNORECASE)
_NOBODY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nx-balancer: nobody\r\n"
    b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
)


class BlackHole:
    """Forwards bytes to a server's socket, until switched to swallow them."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._writers = set[StreamWriter]()
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def swallow(self) -> None:
        """Drops everything silently from now on; connections are still accepted."""
        self._is_open.clear()

    def open(self, *, is_cut: bool) -> None:
        """Forwards everything again, including delayed bytes; or drops those, with the connections."""
        if is_cut:
            for writer in list(self._writers):
                writer.transport.abort()
        self._is_open.set()

    async def _pass(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Runs one connection; nothing receives its cancellation at the end of the run."""
        with suppress(asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._is_open.wait()
            there, back = await asyncio.open_unix_connection(str(self._target))
            self._writers.add(back)
            try:
                await _either(self._pump(reader, back), self._pump(there, writer))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except OSError:
            pass  # Redis is down: the gateway's connection is closed
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._is_open.wait()
                writer.write(piece)
                await writer.drain()


class Balancer:
    """Round-robin over ready gateways per connection; the next one if a connection is refused.

    If none is ready, it tries any live one. It never resends.
    """

    def __init__(self, gateways: Callable[[], Sequence[Gateway]]) -> None:
        self._gateways = gateways
        self._turn = 0
        self.port = 0
        self.served: dict[str, list[int]] = {}
        """Request ID -> numbers of its gateways, one for each attempt."""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def _candidates(self) -> list[Gateway]:
        living = [one for one in self._gateways() if one.is_alive]
        ready = [one for one in living if one.is_ready] or living
        self._turn += 1
        start = self._turn % len(ready) if ready else 0
        return ready[start:] + ready[:start]

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            try:
                head = await _read_head(reader)
                if head:
                    await self._pass(head, reader, writer)
            finally:
                writer.close()

    async def _pass(self, head: bytes, reader: StreamReader, writer: StreamWriter) -> None:
        for gateway in self._candidates():
            try:
                async with asyncio.timeout(_CONNECT_S):
                    there, back = await asyncio.open_connection("127.0.0.1", gateway.port)
            except (OSError, TimeoutError):
                continue
            if named := _REQUEST_ID.search(head):
                self.served.setdefault(named[1].decode("latin-1"), []).append(gateway.number)
            try:
                back.write(head)
                await _either(_pump(reader, back), _pump(there, writer))
            finally:
                back.transport.abort()
            return
        writer.write(_NOBODY)
        await writer.drain()


async def _read_head(reader: StreamReader) -> bytes:
    """Reads the first bytes, with all headers unless the client disconnects before."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        piece = await reader.read(_PIECE_BYTES)
        if not piece:
            return b""
        head += piece
    return head


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


async def _either(*pumps: Awaitable[None]) -> None:
    """Waits until one of them ends."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
