"""The end of a process, as clients and balancers see it: what has begun is served, nothing new is begun."""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.domain.faults import Fault, GatewayError

DRAIN: Final = "imagegate.drain"
"""Where the program's state, which its server shares, has its Drain."""


class Drain:
    """Whether this process is ending. It never comes back from that."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = False

    def begin(self) -> None:
        self.is_on = True


class Goodbye:
    """Tells who is answered while the process ends that its connection ends too: the next request goes elsewhere."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_goodbye(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.is_on:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_goodbye if scope["type"] == "http" else send)


class NoAdmission:
    """Keeps a route from beginning anything once the process is ending."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: GatewayError SHUTTING_DOWN."""
        if self._drain.is_on:
            raise GatewayError(Fault.SHUTTING_DOWN, "it came after the end had begun")
        await self._app(scope, receive, send)
