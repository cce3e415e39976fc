"""Context of every check."""

from dataclasses import dataclass

from gateway.testing.conformance.fields import Refusals
from gateway.testing.conformance.limits import RateLimitProvoker
from gateway.testing.conformance.purchases import Purchases
from gateway.testing.conformance.server import Server


@dataclass(frozen=True, slots=True)
class CheckContext:
    """One run against one server."""

    server: Server
    purchases: Purchases
    refusals: Refusals
    provoker: RateLimitProvoker
