"""Accepts connections within their bounds, and gives a TLS handshake a deadline.

The event loop's own server knows no address before a TLS handshake is complete, and cannot reject a connection.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from gateway.server.connections import Connection, Connections
from gateway.server.limits import ConnectionLimits
from gateway.server.tls import Certificate

_ACCEPTS_MAX: Final = 16
"""Per event-loop iteration; other processes that share the socket accept the rest."""
_RETRY_S: Final = 0.1
"""Delay before accepting again when the process has no file descriptor or memory left."""

MakeProtocol = Callable[[Connection], asyncio.Protocol]


class Listener:
    """One listening socket and its connections that are being opened."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        make_protocol: MakeProtocol,
        certificate: Certificate | None,
        limits: ConnectionLimits,
    ) -> None:
        self._socket = listening
        self._connections = connections
        self._make_protocol = make_protocol
        self._certificate = certificate
        self._timeouts_s = (limits.header_timeout_s, limits.write_timeout_s) if certificate else (None, None)
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self, backlog: int) -> None:
        self._socket.setblocking(False)
        self._socket.listen(backlog)
        self._resume()

    def close(self) -> None:
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                client, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # the socket stays ready, so retrying immediately would spin
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(_RETRY_S, self._resume)
                return
            if connection := self._connections.admit(client, address[0]):
                opening = self._loop.create_task(self._open(client, connection))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket, connection: Connection) -> None:
        handshake_timeout_s, shutdown_timeout_s = self._timeouts_s
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_protocol(connection),
                client,
                ssl=self._certificate.context if self._certificate else None,
                ssl_handshake_timeout=handshake_timeout_s,
                ssl_shutdown_timeout=shutdown_timeout_s,
            )
        except OSError:  # no TLS, a failed or slow handshake, a disconnected client
            connection.close()
            client.close()
        except BaseException:
            connection.close()
            raise
