"""Starlette's application without its own middleware, which every message of a request would pass.

Starlette's two layers render errors in plain text; here `errors.ErrorBoundary` renders all of them.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class App(Starlette):
    """An application with only the middleware that it is given."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for kind, args, kwargs in reversed(self.user_middleware):
            app = kind(app, *args, **kwargs)
        return app


class AsgiEndpoint:
    """A route's handler as an ASGI application; Starlette would wrap a function in two more layers."""

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive, send))
        await response(scope, receive, send)
