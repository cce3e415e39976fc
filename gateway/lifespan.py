"""Startup steps, background tasks and shutdown steps of the gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.applications import Starlette

from gateway.generation.transport import AiohttpTransport
from gateway.redis import Client

_LOG = structlog.get_logger("imagegate.app")
_RESTART_PAUSE_S: Final = 1.0
_CANCEL_AGAIN_S: Final = 0.5

AsyncCallback = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Lifespan:
    """Startup steps, background tasks and shutdown steps, in that order."""

    redis: Client
    transports: Sequence[AiohttpTransport]
    starts: Sequence[AsyncCallback]
    """Before the first request. If one fails, the gateway does not start."""
    background_tasks: Sequence[AsyncCallback]
    """Each runs until shutdown, and is restarted when it fails."""
    flushes: Sequence[AsyncCallback]
    """After the last request, in this order."""
    state: Mapping[str, object] = field(default_factory=dict)
    """Values that the program shares with its server."""

    @property
    def lifespan(self) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]]:
        """A context manager as Starlette expects it."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, object]]:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self.redis.aclose)
                for transport in self.transports:
                    await stack.enter_async_context(transport)
                async with asyncio.TaskGroup() as group:
                    await asyncio.gather(*(start() for start in self.starts))
                    tasks = [group.create_task(_keep_running(companion)) for companion in self.background_tasks]
                    yield self.state
                    for flush in self.flushes:
                        await flush()
                    await _end(tasks)

        return lifespan


async def _keep_running(companion: AsyncCallback) -> None:
    """Restarts a background task that fails, so that in-flight requests continue."""
    while True:
        try:
            await companion()
        except Exception:  # noqa: BLE001 - any error is logged and retried
            _LOG.exception("background_task_failed")
        await asyncio.sleep(_RESTART_PAUSE_S)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels until all have ended: redis-py sometimes swallows a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
