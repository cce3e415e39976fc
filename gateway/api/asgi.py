"""Starlette's application without its own middleware, which would see every message of a request.

Starlette's two layers render errors as plain text. Here `errors.ErrorMiddleware` renders all of them.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class App(Starlette):
    """An application with only the middleware passed to it."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for kind, args, kwargs in reversed(self.user_middleware):
            app = kind(app, *args, **kwargs)
        return app


class AsgiEndpoint:
    """Runs a route's handler as an ASGI application. Starlette would wrap a function in two more layers."""

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive, send))
        await response(scope, receive, send)
