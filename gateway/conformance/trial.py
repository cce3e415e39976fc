"""What every check is given."""

from dataclasses import dataclass

from gateway.conformance.fields import Refusals
from gateway.conformance.limits import Rush
from gateway.conformance.orders import Orders
from gateway.conformance.server import Server


@dataclass(frozen=True, slots=True)
class Trial:
    """One run against one server."""

    server: Server
    orders: Orders
    refusals: Refusals
    rush: Rush
