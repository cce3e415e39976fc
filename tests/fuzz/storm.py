"""Sends many attacks at once, and notes the status of what is answered."""

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from tests.fuzz.attacks import Attack

CONNECTIONS: Final = 64
_TIMEOUT_S: Final = 240.0
_LEAVES_AFTER_S: Final = 0.05
_LINE: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Storm:
    """One client. `seen`: responses by kind and status."""

    def __init__(self, url: str, attacks: Sequence[Attack]) -> None:
        address = urlsplit(url)
        self._address = (address.hostname, address.port)
        self._attacks = attacks
        self._random = random.Random(1)
        self.sent = 0
        self.seen: Counter[tuple[str, int]] = Counter()

    def rage(self, count: int) -> None:
        """Sends so many requests, of all kinds in turn, each time in another order."""
        asyncio.run(self._rage(count))

    async def _rage(self, count: int) -> None:
        order: list[Attack] = []
        while len(order) < count:
            order += self._random.sample(self._attacks, len(self._attacks))
        waiting = iter(order[:count])
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send_all(waiting))

    async def _send_all(self, waiting: Iterator[Attack]) -> None:
        for attack in waiting:
            self.sent += 1
            async with asyncio.timeout(_TIMEOUT_S):
                raw = await self._send(attack, self.sent)
            self.seen.update((attack.kind, int(status)) for status in _LINE.findall(raw))

    async def _send(self, attack: Attack, serial: int) -> bytes:
        loop, raw = asyncio.get_running_loop(), b""
        with socket.socket() as client, contextlib.suppress(OSError):
            client.setblocking(False)
            if attack.end == "unread":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, self._address)
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(client, attack.render(serial))
            if attack.end == "read":
                while piece := await loop.sock_recv(client, 65536):
                    raw += piece
            else:
                await asyncio.sleep(_LEAVES_AFTER_S)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return raw
