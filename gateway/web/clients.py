"""The client at the other end of a request: whether it is still there, and how long it is willing to wait."""

import re
from typing import Final

from starlette.requests import Request
from starlette.types import Message

from gateway.domain.faults import Fault, GatewayError

MAX_WAIT_HEADER: Final = "x-imagegate-max-wait"
_SECONDS: Final = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)


class Client:
    """Of one request, whose body has been read."""

    __slots__ = ("_is_gone", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_gone = False

    async def has_left(self) -> bool:
        """Does not wait."""
        if not self._is_gone:
            message = take_at_hand(self._request)
            self._is_gone = message is not None and message["type"] == "http.disconnect"
        return self._is_gone

    async def left(self) -> None:
        """Returns when the client has left; several may wait for that."""
        while not self._is_gone:
            message = await self._request.receive()
            self._is_gone = message["type"] == "http.disconnect"


def take_at_hand(request: Request) -> Message | None:
    """The next message of a request, where one has come.

    Starlette's way to look goes through the event loop, and costs a twentieth of a request's CPU.
    """
    receiving = request.receive().__await__()
    try:
        next(receiving)
    except StopIteration as message:
        found: Message = message.value
        return found
    receiving.close()
    return None


def read_max_wait(request: Request) -> float | None:
    """Seconds that a request is willing to wait for an account; None where it does not say.

    Raises: GatewayError INVALID_VALUE.
    """
    text = request.headers.get(MAX_WAIT_HEADER)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text.strip()):
        raise GatewayError(
            Fault.INVALID_VALUE,
            f"The header {MAX_WAIT_HEADER} takes a number of seconds, as 30 or 2.5; 0 does not wait at all.",
            param=MAX_WAIT_HEADER,
        )
    return float(text)
