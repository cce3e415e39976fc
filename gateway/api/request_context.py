"""The HTTP side of a request's context: where it is found, when its client disconnects, how long it may wait."""

import re
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.context import RequestContext

MAX_WAIT_HEADER: Final = "x-imagegate-max-wait"
_SECONDS: Final = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)


def context_of(connection: HTTPConnection) -> RequestContext:
    context = connection.scope["state"]["context"]
    assert isinstance(context, RequestContext)
    return context


class ClientConnection:
    """The connection of one request, as a DisconnectEvent. To be used once the request's body has been read."""

    __slots__ = ("_is_closed", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_closed = False

    def is_set(self) -> bool:
        if not self._is_closed:
            message = poll_message(self._receive)
            self._is_closed = message is not None and message["type"] == "http.disconnect"
        return self._is_closed

    async def wait(self) -> None:
        """Returns when the client has disconnected; several callers may wait."""
        while not self._is_closed:
            message = await self._receive()
            self._is_closed = message["type"] == "http.disconnect"


def poll_message(receive: Receive) -> Message | None:
    """The next message of a request, if it has arrived.

    Starlette's way to poll goes through the event loop, and costs a twentieth of a request's CPU.
    """
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as message:
        found: Message = message.value
        return found
    receiving.close()
    return None


def read_max_wait(connection: HTTPConnection) -> float | None:
    """The header's seconds; None without the header. Raises: GatewayError INVALID_VALUE."""
    text = connection.headers.get(MAX_WAIT_HEADER)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text.strip()):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"The header {MAX_WAIT_HEADER} takes a number of seconds, as 30 or 2.5; 0 does not wait at all.",
            param=MAX_WAIT_HEADER,
        )
    return float(text)
