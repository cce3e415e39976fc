"""Calls whose client may disconnect."""

import asyncio
from collections.abc import Coroutine
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

HANG_S: Final = 600.0
"""A call that hangs ends then, like at a proxy with a time-out."""
TURNS: Final = 8
"""Event-loop iterations before a request counts: by then, a call whose client disconnected earlier has ended."""


async def while_connected(request: Request, answering: Coroutine[object, object, Response]) -> Response:
    """Ends a call whose client disconnects: the limit of an account is one of connections."""
    answer, left = asyncio.ensure_future(answering), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else Response(status_code=400)
    finally:
        answer.cancel()
        left.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
