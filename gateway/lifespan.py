"""What is open and what runs beside the program for as long as it serves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.applications import Starlette

from gateway.stores import Client
from gateway.transport import AiohttpTransport

_LOG = structlog.get_logger("imagegate.app")
_RESTART_PAUSE_S: Final = 1.0
_CANCEL_AGAIN_S: Final = 0.5

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the program: what it begins with, what runs beside it, and what it does not end without."""

    redis: Client
    transports: Sequence[AiohttpTransport]
    starts: Sequence[Act]
    """Before the first request; one that fails keeps the program from starting."""
    companions: Sequence[Act]
    """Each runs for ever, and is started again when it fails."""
    flushes: Sequence[Act]
    """After the last request, in this order."""
    state: Mapping[str, object] = field(default_factory=dict)
    """What the server is told of the program."""

    @property
    def lifespan(self) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]]:
        """As Starlette wants it."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, object]]:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self.redis.aclose)
                for transport in self.transports:
                    await stack.enter_async_context(transport)
                async with asyncio.TaskGroup() as group:
                    await asyncio.gather(*(start() for start in self.starts))
                    tasks = [group.create_task(_keep_running(companion)) for companion in self.companions]
                    yield self.state
                    for flush in self.flushes:
                        await flush()
                    await _end(tasks)

        return lifespan


async def _keep_running(companion: Act) -> None:
    """A companion that fails is started again: it must not take the requests under way with it."""
    while True:
        try:
            await companion()
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and tried again
            _LOG.exception("companion_failed")
        await asyncio.sleep(_RESTART_PAUSE_S)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: redis-py swallows a cancellation now and then."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
