"""The end of a process, as clients and balancers see it: what has begun is served, nothing new is begun."""

from typing import Final

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

    def refuse(self) -> None:
        """Keep a request from beginning anything. Raises: GatewayError SHUTTING_DOWN once the process is ending."""
        if self.is_on:
            raise GatewayError(Fault.SHUTTING_DOWN, "it came after the end had begun")
