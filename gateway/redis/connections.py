"""Connections to one server, for all topologies."""

import asyncio
import math
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.redis.deadlines import in_time

_POOL_MAX: Final = 10_000
"""Effectively unlimited: CallGuard limits calls and queues the others; the pool would raise."""
_NEVER_S: Final = 3600.0
"""redis-py's timeouts also count time in which this process did not run, and some of its code requires one."""


class NotConnectedError(RedisConnectionError):
    """The command was not sent, because no connection was available."""


class ClosableConnection(AbstractConnection):
    """A connection that the server or a cluster client may close at any moment, even during a write.

    redis-py's connection is half closed for some event-loop iterations. A caller that gets it then receives uvloop's
    RuntimeError, which nothing treats as a connection error.
    Connecting and reading a reply each have the deadline `socket_timeout`, which counts only time the event loop ran.
    """

    def __init__(self, *, socket_timeout: float, **options: Any) -> None:
        super().__init__(**options | dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _NEVER_S))
        self._patience_s = socket_timeout

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Raises: NotConnectedError, AuthenticationError, ResponseError."""
        if self.is_connected:
            return
        try:
            async with in_time(self._patience_s):
                await super().connect_check_health(*args, **options)
        except AuthenticationError:
            raise
        except TimeoutError as error:
            raise NotConnectedError(f"no connection in {self._patience_s:g} s") from error
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise NotConnectedError(str(error)) from error

    async def read_response(
        self,
        disable_decoding: bool = False,  # noqa: FBT001, FBT002 - redis-py's
        timeout: float | None = None,  # noqa: ASYNC109 - redis-py's
        *,
        disconnect_on_error: bool = True,
        push_request: bool | None = False,
    ) -> Any:
        """Raises: RedisConnectionError, RedisTimeoutError, ResponseError."""
        options: dict[str, Any] = {"disconnect_on_error": disconnect_on_error, "push_request": push_request}
        if timeout is not None:
            return await super().read_response(disable_decoding, timeout, **options)
        try:
            async with in_time(self._patience_s):
                return await super().read_response(disable_decoding, math.inf, **options)
        except TimeoutError as error:
            raise RedisTimeoutError(f"no reply in {self._patience_s:g} s") from error

    async def disconnect(self, nowait: bool = False, *args: Any, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Closes the connection; the next command reconnects. Only the caller waits for the socket to close."""
        writer = self._writer
        await super().disconnect(True, *args, **options)
        if writer and not nowait:
            with suppress(OSError):
                async with asyncio.timeout(self._patience_s):
                    await writer.wait_closed()

    async def send_all(self, packed: bytes) -> None:
        """Writes packed commands within the caller's deadline; closes the connection on failure.

        redis-py's own method creates a task for each timeout.
        Raises: RedisConnectionError.
        """
        try:
            await self._send_packed_command([packed])
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"connection lost: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        """Checks the connection again: redis-py checked it some event-loop iterations earlier."""
        if self._writer is None or self._writer.transport.is_closing():
            raise NotConnectedError("connection closed before the command was sent")
        await super()._send_packed_command(command)


class SocketConnection(ClosableConnection, UnixDomainSocketConnection):
    """A Unix socket connection."""


class TcpConnection(ClosableConnection, Connection):
    """A TCP connection. All share one TLS context: loading the certificates blocks for 20 ms."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, object]:
        arguments = super()._connection_arguments()
        return {**arguments, "ssl": self._tls} if self._tls else arguments

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        """Reconnects first if the server closed the idle connection; a cluster client does not check."""
        reader = self._reader
        if reader and (reader.at_eof() or reader.exception()):
            await self.disconnect(nowait=True)
        await super().send_packed_command(command, check_health)


class Pool(ConnectionPool):
    """redis-py's pool, with `close_idle`."""

    async def close_idle(self) -> None:
        """Closes idle connections, so that the next call reconnects. Does not wait."""
        for connection in self._available_connections:
            await connection.disconnect(nowait=True)


def pool_options() -> dict[str, Any]:
    """Returns the options of every pool."""
    return {
        "max_connections": _POOL_MAX,
        "maint_notifications_config": no_notifications(),
        "retry": no_retry(),
    }


def no_retry() -> Retry:
    """Disables redis-py's retries: a call may have run before its connection broke. Only the caller may resend it."""
    return Retry(NoBackoff(), 0)


def no_notifications() -> MaintNotificationsConfig:
    """Disables maintenance notifications: they cost a round trip per connection and change its timeouts."""
    return MaintNotificationsConfig(enabled=False)


def tls_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """Builds a TLS context for the configured CA, else the system's. Raises: ValueError."""
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"its certificates are not usable ({error})") from error
    if options.get("ssl_check_hostname", "").lower() in {"no", "false", "0"}:
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
