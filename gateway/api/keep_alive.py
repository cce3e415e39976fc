"""Keep-alives while the images are generated: proxies and clients close connections that are silent for long.

The job runs to completion even if the client disconnects, so that its images are settled and logged.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.bodies import ChunksResponse, context_of
from gateway.api.openai_responses import Chunks
from gateway.domain.errors import GatewayError, detach
from gateway.domain.images import ImageResult

_BLANK: Final = b" "
"""Insignificant before a JSON value (RFC 8259 section 2)."""


async def keep_alive_until(
    make: Callable[[], Awaitable[ImageResult]], interval_s: float, send_keep_alive: Callable[[], Awaitable[None]]
) -> ImageResult:
    """Awaits a result, and calls `send_keep_alive` each time `interval_s` have passed. Raises: GatewayError."""
    outcome: ImageResult | GatewayError
    is_made = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_repeat(is_made, interval_s, send_keep_alive))
        try:
            outcome = await make()
        except GatewayError as error:  # a group would wrap it
            outcome = detach(error)
        finally:
            is_made.set()
    try:
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome
    finally:
        del outcome  # its traceback has this frame: without a cycle it ends with the request


async def _repeat(is_over: asyncio.Event, interval_s: float, send: Callable[[], Awaitable[None]]) -> None:
    """Runs until the result is there. It ignores a disconnect, which must not stop the job."""
    while not is_over.is_set():
        try:
            async with asyncio.timeout(interval_s):
                await is_over.wait()
        except TimeoutError:
            with suppress(OSError, RuntimeError):  # uvicorn's error after a disconnect, and uvloop's
                await send()


class BlanksResponse(Response):
    """A JSON response that begins with blanks once it has waited for `interval_s`.

    A failure before that is an ordinary HTTP error. After it, `ErrorMiddleware` sends the error as the body.
    """

    def __init__(
        self,
        request: Request,
        make: Callable[[], Awaitable[ImageResult]],
        render: Callable[[ImageResult], Chunks],
        interval_s: float,
    ) -> None:
        super().__init__(None, 200, {"x-accel-buffering": "no"}, "application/json")
        del self.headers["content-length"]
        self._context = context_of(request)
        self._make = make
        self._render = render
        self._interval_s = interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: GatewayError."""

        async def send_blank() -> None:
            if not self._context.is_padded:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._context.is_padded = True
            await send({"type": "http.response.body", "body": _BLANK, "more_body": True})

        result = await keep_alive_until(self._make, self._interval_s, send_blank)
        response = ChunksResponse(self._render(result))
        if self._context.is_padded:
            self._context.is_padded = False  # an error cannot follow a part of the body
            await response.send_body(send)
        else:
            await response(scope, receive, send)
