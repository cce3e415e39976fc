"""Scripts, as few round trips as can be: what is asked for in one turn of the event loop goes as one pipeline.

Every request runs several scripts, and with many requests under way most of what a script costs this process is the way
there and back (redis-py, two shared cores: 0.12 ms of CPU for one EVALSHA by itself, 0.03 for one of many). It is
redis-py's connections that carry them, not its `Pipeline`, which packs arguments in Python and sets a time-out for each
answer: twice the CPU.
Nothing waits for company: a pipeline is sent as soon as the turn is over, while fewer than `_PIPELINES_MAX` are under
way. One that breaks breaks for all in it, as the connection of one call would; one deadline, one slot and one leave of
the guard are for all of it.
"""

import asyncio
import copy
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.domain.errors import detach
from gateway.redis.call_guard import CallGuard, CallNotStartedError, judge
from gateway.redis.circuit_breaker import Outcome
from gateway.redis.connections import ClosableConnection

_BATCH_MAX: Final = 64
"""Of a tenth of a millisecond each, most of them; the guard gives a long one a longer deadline."""
_PIPELINES_MAX: Final = 2
"""While one is at the server, the next is on its way; more would only be smaller."""

_ENDED: Final = "this process closed the connection"

Part = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class LoadedScript:
    """A script that the server may know by its digest."""

    digest: str
    text: str


@dataclass(slots=True)
class _Call:
    script: LoadedScript
    keys: list[str]
    args: list[Part]
    answer: "asyncio.Future[object]"

    def pack(self) -> bytes:
        """The command as it is sent."""
        command: Any = ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.args)
        return bytes(hiredis.pack_command(command))  # no copy; its types know one argument alone

    def end(self, found: object) -> None:
        """Each caller gets an error of his own: raising one adds to it."""
        if self.answer.done():
            return
        if isinstance(found, Exception):
            self.answer.set_exception(_own(found))
        else:
            self.answer.set_result(found)


class ScriptPipeline:
    """For one server, in one event loop."""

    def __init__(self, redis: Redis, guard: CallGuard) -> None:
        self._redis = redis
        self._guard = guard
        self._waiting: deque[_Call] = deque()
        self._is_due = False
        self._in_flight: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """Whoever waits is told that nothing is sent any more; what is under way ends with the guard."""
        for call in self._waiting:
            call.end(CallNotStartedError(_ENDED))
        self._waiting.clear()
        await self._guard.end()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def run(self, script: LoadedScript, keys: list[str], args: list[Part]) -> object:
        """A script's answer. Raises: TimeoutError, RedisError, OSError."""
        loop = asyncio.get_running_loop()
        call = _Call(script, keys, args, loop.create_future())
        self._waiting.append(call)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._send)
        try:
            return await call.answer
        except NoScriptError:
            return await self._guard.run(self._send_whole(call), scripts=1)
        finally:
            del call  # its answer may be an error, whose traceback keeps this frame

    async def _send_whole(self, call: _Call) -> object:
        """To a server that lacks the script."""
        return await self._redis.eval(call.script.text, len(call.keys), *call.keys, *call.args)

    def _send(self) -> None:
        self._is_due = False
        while self._waiting and len(self._in_flight) < _PIPELINES_MAX:
            taken = [self._waiting.popleft() for _ in range(min(_BATCH_MAX, len(self._waiting)))]
            batch = [call for call in taken if not call.answer.done()]  # some callers may have gone
            if batch:
                task = asyncio.get_running_loop().create_task(self._ask(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        self._send()

    async def _ask(self, batch: list[_Call]) -> None:
        """Every call of it gets an answer or an error, whatever happens."""
        answers: list[object] = []
        error: Exception = RedisConnectionError(_ENDED)
        try:
            await self._guard.run(self._execute(batch, answers), scripts=len(batch), answers=answers)
        except (RedisError, OSError) as failure:  # a time-out is an OSError
            error = detach(failure)  # or it would keep this frame, which keeps it
        finally:
            for index, call in enumerate(batch):
                call.end(answers[index] if index < len(answers) else error)

    async def _execute(self, batch: list[_Call], answers: list[object]) -> None:
        """Raises: for the guard, what says that the server cannot serve, also where it is one of the answers."""
        pool = self._redis.connection_pool
        connection: ClosableConnection = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py's
        try:
            await connection.send_all(b"".join([call.pack() for call in batch]))
            while len(answers) < len(batch):
                answers.append(await _read(connection))
        finally:
            await pool.release(connection)
        for found in answers:
            if isinstance(found, Exception) and judge(found) is Outcome.FAILED:
                raise found


async def _read(connection: ClosableConnection) -> object:
    """An answer, or the error that the server answers. The connection closes itself where there is neither."""
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return detach(error)


def _own(error: Exception) -> Exception:
    """A copy; not every class of exception can be copied."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever its constructor wants: nobody may be left without an answer
        return RedisConnectionError(f"{type(error).__name__}: {error}")


class ScriptRunner:
    """For a cluster, whose scripts go to different servers: each by itself."""

    def __init__(self, redis: RedisCluster, guard: CallGuard) -> None:
        self._redis = redis
        self._guard = guard

    async def run(self, script: LoadedScript, keys: list[str], args: list[Part]) -> object:
        """As Batches has it."""
        return await self._guard.run(self._call(script, keys, args), scripts=1)

    async def _call(self, script: LoadedScript, keys: list[str], args: list[Part]) -> object:
        try:
            return await self._redis.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self._redis.eval(script.text, len(keys), *keys, *args)
