"""The HTTP side of a request's context: lookup, client disconnects, and the maximum wait."""

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
    """The connection of one request, as a DisconnectEvent. Use it after the request's body has been read."""

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
        """Waits until the client disconnects. Several callers may wait."""
        while not self._is_closed:
            message = await self._receive()
            self._is_closed = message["type"] == "http.disconnect"


def poll_message(receive: Receive) -> Message | None:
    """Returns the next message of a request, if it has arrived.

    Starlette polls through the event loop, which costs a twentieth of a request's CPU.
    """
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as message:
        received: Message = message.value
        return received
    receiving.close()
    return None


def read_max_wait(connection: HTTPConnection) -> float | None:
    """Parses the header's seconds; None without the header. Raises: GatewayError INVALID_VALUE."""
    text = connection.headers.get(MAX_WAIT_HEADER)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text.strip()):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"Invalid {MAX_WAIT_HEADER}: expected a number of seconds, as 30 or 2.5, or 0 to not wait.",
            param=MAX_WAIT_HEADER,
        )
    return float(text)
