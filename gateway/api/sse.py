"""Server-sent events for `stream: true`, with keep-alive comments while the images are generated."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api import openai_responses
from gateway.api.bodies import context_of, split_chunk
from gateway.api.errors import record_error
from gateway.api.keep_alive import keep_alive_until
from gateway.domain.billing import usd
from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageResult, Operation


class EventStream(Response):
    """Starts with the first keep-alive or the result. A failure before that is an ordinary HTTP error."""

    def __init__(
        self,
        request: Request,
        make: Callable[[], Awaitable[ImageResult]],
        keep_alive_s: float,
        operation: Operation = Operation.GENERATE,
    ) -> None:
        super().__init__(None, 200, {"x-accel-buffering": "no"}, "text/event-stream")
        del self.headers["content-length"]
        self._request = request
        self._context = context_of(request)
        self._make = make
        self._keep_alive_s = keep_alive_s
        self._operation = operation
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Raises: GatewayError while nothing has been sent."""
        send_comment = partial(self._send, send, [openai_responses.KEEP_ALIVE])
        try:
            result = await keep_alive_until(self._make, self._keep_alive_s, send_comment)
        except GatewayError as error:
            if not self._has_started:
                raise
            record_error(self._request, error)
            await self._send(send, [openai_responses.render_error_event(error, self._context.model_name)])
        else:
            for event in openai_responses.render_events(result, result.created_s, self._operation):
                await self._send(send, event)
            # The headers of these may have been sent before; SDKs skip comments.
            if result.missing:
                await self._send(send, [b": missing %d\n\n" % result.missing])
            if change := self._context.size_change:
                await self._send(send, [f": size {change}\n\n".encode()])
        if (cost := self._context.charged_usd_micros) is not None:
            await self._send(send, [f": cost-usd {usd(cost)}\n\n".encode()])
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunks: list[bytes | memoryview]) -> None:
        if not self._has_started:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._has_started = True
        for part in (part for chunk in chunks for part in split_chunk(chunk)):
            await send({"type": "http.response.body", "body": part, "more_body": True})
