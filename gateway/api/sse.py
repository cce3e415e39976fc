"""Server-sent events for `stream: true`, with keep-alive comments while the images are generated.

The job runs to completion even if the client disconnects, so that its images are settled and logged.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api import openai
from gateway.api.bodies import context_of, split_chunk
from gateway.api.errors import record_error
from gateway.domain.errors import GatewayError, detach
from gateway.domain.images import ImageResult


class EventStream(Response):
    """Starts with the first keep-alive or the result. A failure before that is an ordinary HTTP error."""

    def __init__(
        self,
        request: Request,
        make: Callable[[], Awaitable[ImageResult]],
        keep_alive_s: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(None, 200, {"x-accel-buffering": "no"}, "text/event-stream")
        del self.headers["content-length"]
        self._request = request
        self._context = context_of(request)
        self._make = make
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Raises: GatewayError while nothing has been sent."""
        outcome: ImageResult | GatewayError
        is_made = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_alive(send, is_made))
            try:
                outcome = await self._make()
            except GatewayError as error:
                outcome = detach(error)
            finally:
                is_made.set()
        if isinstance(outcome, ImageResult):
            for event in openai.render_events(outcome, int(self._clock())):
                await self._send(send, event)
            # The headers of these may have been sent before; SDKs skip comments.
            if outcome.missing:
                await self._send(send, [b": missing %d\n\n" % outcome.missing])
            if change := self._context.size_change:
                await self._send(send, [f": size {change}\n\n".encode()])
        elif self._has_started:
            record_error(self._request, outcome)
            await self._send(send, [openai.render_error_event(outcome, self._context.model_name)])
        else:
            raise outcome
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send, is_made: asyncio.Event) -> None:
        """Runs until the images are made. It ignores a disconnect, which must not stop the job."""
        while not is_made.is_set():
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await is_made.wait()
            except TimeoutError:
                with suppress(OSError, RuntimeError):  # uvicorn's error after a disconnect, and uvloop's
                    await self._send(send, [openai.KEEP_ALIVE])

    async def _send(self, send: Send, chunks: list[bytes | memoryview]) -> None:
        if not self._has_started:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._has_started = True
        for part in (part for chunk in chunks for part in split_chunk(chunk)):
            await send({"type": "http.response.body", "body": part, "more_body": True})
