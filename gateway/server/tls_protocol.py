"""TLS of one connection in bounded memory.

uvloop's own implementation reads and encrypts 256 KiB at once, and more while it waits. OpenSSL's buffers never shrink,
so an idle connection cost up to 670 KiB. Python's has the same design, and can be limited to a record.
"""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final

from gateway.server.connections import Connection

_RECORD_BYTES: Final = 16 * 1024
_UNENCRYPTED_BYTES: Final = 64 * 1024
"""The program waits beyond this, as it does without TLS."""


class TlsProtocol(SSLProtocol):
    """Decrypts and encrypts at most about a record ahead of its reader. Closes its connection's count at the end."""

    max_size: ClassVar[int] = _RECORD_BYTES
    _sslobj: ssl.SSLObject
    _ssl_writing_paused: bool
    _write_backlog: deque[bytes | memoryview]  # type: ignore[assignment] # typeshed has that of Python 3.10
    _set_read_buffer_limits: Callable[[int], None]
    _set_write_buffer_limits: Callable[[int], None]
    _process_outgoing: Callable[[], None]

    def __init__(
        self,
        connection: Connection,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext | None,
        handshake_timeout_s: float,
        shutdown_timeout_s: float,
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            protocol,
            context,  # type: ignore[arg-type] # refused if None
            None,  # type: ignore[arg-type] # nothing waits for the handshake
            server_side=True,
            ssl_handshake_timeout=handshake_timeout_s,  # type: ignore[arg-type] # any number
            ssl_shutdown_timeout=shutdown_timeout_s,
        )
        self._connection = connection
        self._set_read_buffer_limits(_RECORD_BYTES)
        self._set_write_buffer_limits(_UNENCRYPTED_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connection.close()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_backlog:
            self._write_appdata([])

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        """Replaces the error, which would keep the connection in memory in a cycle. No handshake error is logged."""
        super()._on_handshake_complete(ConnectionResetError if handshake_exc else None)  # type: ignore[arg-type]

    def _do_write(self) -> None:
        """Encrypts what the transport takes at once. The rest stays in the backlog, which counts as unread."""
        while self._write_backlog and not self._ssl_writing_paused:
            self._encrypt_record()
            self._process_outgoing()
        self._process_outgoing()

    def _do_flush(self) -> None:
        """Encrypts everything: the end of the connection follows."""
        with suppress(ssl.SSLError):  # the client broke the protocol
            while self._write_backlog:
                self._encrypt_record()
        super()._do_flush()  # type: ignore[misc]

    def _encrypt_record(self) -> None:
        data = memoryview(self._write_backlog.popleft())
        count = self._sslobj.write(data[:_RECORD_BYTES])
        self._write_buffer_size -= count
        if count < len(data):
            self._write_backlog.appendleft(data[count:])
