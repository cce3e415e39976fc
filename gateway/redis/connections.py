"""Connections to one server, and the pipelining of scripts: all that are requested in one event-loop iteration.

Each request runs several scripts, and their main cost to this process is the round trip. One EVALSHA takes
0.12 ms of CPU alone and 0.03 ms in a pipeline (redis-py, two shared cores). redis-py's `Pipeline` packs arguments in
Python and sets a timeout per reply, at twice the CPU.
A pipeline is sent at the end of the iteration, while fewer than `_PIPELINES_MAX` are in flight. If it fails, all
its calls fail. It uses one deadline, one slot and one permit of the guard.
"""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.domain.errors import detach
from gateway.redis.call_guard import CallGuard, CallNotStartedError, Outcome, judge, translate_redis_errors, unavailable
from gateway.redis.deadlines import in_time

Value = str | bytes | int | float

_BATCH_MAX: Final = 64
"""Scripts in a pipeline. Most take 0.1 ms; the guard extends the deadline of a long pipeline."""
_PIPELINES_MAX: Final = 2
"""Pipelines in flight: one runs on the server while the next is sent. More would only be smaller."""
_ENDED: Final = "this process closed the connection"
_POOL_MAX: Final = 10_000
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

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Raises: RedisConnectionError, RedisTimeoutError, ResponseError."""
        if options.get("timeout") is not None:
            return await super().read_response(*args, **options)
        try:
            async with in_time(self._patience_s):
                return await super().read_response(*args, **options | {"timeout": math.inf})
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

    async def exchange(self, packed: bytes, count: int, replies: list[object]) -> None:
        """Sends packed commands and appends the `count` replies, error replies as values. Closes itself on failure.

        Has no timeout of its own: redis-py's methods create a task for each write and a timer for each read.
        """
        try:
            await self._send_packed_command([packed])
            while len(replies) < count:
                replies.append(await self._read_response_from_parser())
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
    """redis-py's pool, effectively unlimited: CallGuard limits calls and queues the others; the pool would raise."""

    def __init__(self, connection_class: type[ClosableConnection], **options: Any) -> None:
        super().__init__(connection_class=connection_class, max_connections=_POOL_MAX, **unassisted(), **options)

    async def close_idle(self) -> None:
        """Closes idle connections, so that the next call reconnects. Does not wait."""
        for connection in self._available_connections:
            await connection.disconnect(nowait=True)


def unassisted() -> dict[str, Any]:
    """Returns options against what redis-py would do by itself.

    It retries, but a call may have run before its connection broke: only the caller may resend it. Maintenance
    notifications cost a round trip per connection and change its timeouts.
    """
    return {"retry": Retry(NoBackoff(), 0), "maint_notifications_config": MaintNotificationsConfig(enabled=False)}


class LoadedScript(NamedTuple):
    """A script with its SHA-1 digest."""

    digest: str
    text: str


_Call = tuple[bytes, "asyncio.Future[object]"]
"""A packed command and its reply. An error is a value too: raising one that several calls share would add to its
traceback."""


class ScriptPipeline:
    """Pipelines the scripts of one server, in one event loop."""

    def __init__(self, redis: Redis, guard: CallGuard) -> None:
        self._redis = redis
        self._guard = guard
        self._waiting: deque[_Call] = deque()
        self._is_due = False
        self._in_flight: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """Fails all unsent calls, and waits for pipelines in flight, which the guard ends."""
        for _, reply in self._waiting:
            if not reply.done():
                reply.set_result(CallNotStartedError(_ENDED))
        self._waiting.clear()
        await self._guard.end()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def run(self, script: LoadedScript, keys: list[str], args: list[Value]) -> object:
        """Returns a script's reply. A server that lacks the script gets it in full.

        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        loop = asyncio.get_running_loop()
        command: Any = ("EVALSHA", script.digest, len(keys), *keys, *args)
        awaited = loop.create_future()
        self._waiting.append((hiredis.pack_command(command), awaited))
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._send)
        reply = await awaited
        if isinstance(reply, NoScriptError):
            with translate_redis_errors():
                whole = self._redis.eval(script.text, len(keys), *keys, *args)
                return await self._guard.run(cast("Coroutine[object, object, object]", whole), scripts=1)
        if isinstance(reply, Exception):
            raise unavailable(reply) from reply
        return reply

    def _send(self) -> None:
        self._is_due = False
        while self._waiting and len(self._in_flight) < _PIPELINES_MAX:
            taken = [self._waiting.popleft() for _ in range(min(_BATCH_MAX, len(self._waiting)))]
            batch = [call for call in taken if not call[1].done()]  # some callers may be cancelled
            if batch:
                task = asyncio.get_running_loop().create_task(self._ask(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        self._send()

    async def _ask(self, batch: list[_Call]) -> None:
        """Sends a batch. Every call gets a reply or an error."""
        replies: list[object] = []
        error: Exception = RedisConnectionError(_ENDED)
        try:
            await self._guard.run(self._exchange(batch, replies), scripts=len(batch), replies=replies)
        except (RedisError, OSError) as failure:  # a timeout is an OSError
            error = detach(failure)  # otherwise the error and this frame reference each other
        finally:
            for index, (_, awaited) in enumerate(batch):
                if not awaited.done():
                    awaited.set_result(replies[index] if index < len(replies) else error)

    async def _exchange(self, batch: list[_Call], replies: list[object]) -> None:
        """Raises, for the guard, an error that shows that the server cannot serve, even if only one reply has it."""
        pool = self._redis.connection_pool
        connection: ClosableConnection = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py's
        try:
            await connection.exchange(b"".join(packed for packed, _ in batch), len(batch), replies)
        finally:
            await pool.release(connection)
        for reply in replies:
            if isinstance(reply, Exception) and judge(reply) is Outcome.FAILED:
                raise reply
