"""Routes that have a port of their own."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnPort:
    """Keeps paths to a port: they are nowhere else, and nothing else is there but what is `shared`.

    The port is the one that the connection came in by, which no header can change. Without a port all is everywhere.
    """

    def __init__(
        self, app: ASGIApp, port: int | None, owns: Callable[[str], bool], shared: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._port = port
        self._owns = owns
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: HTTPException 404."""
        if scope["type"] == "http" and self._port is not None:
            is_there = (scope.get("server") or ("", None))[1] == self._port
            if is_there != self._owns(scope["path"]) and not (is_there and scope["path"] in self._shared):
                raise HTTPException(404)
        await self._app(scope, receive, send)
