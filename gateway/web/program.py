"""Starlette's application without what only costs here: every layer is passed by each message of every request.

Its own two layers answer what was raised in plain text; here `errors.ErrorBoundary` answers all of it.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class Program(Starlette):
    """Its middleware are all that stand before its routes."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for kind, args, kwargs in reversed(self.user_middleware):
            app = kind(app, *args, **kwargs)
        return app


class Endpoint:
    """A route's handler as an ASGI program; Starlette would wrap a function in two layers more."""

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive, send))
        await response(scope, receive, send)
