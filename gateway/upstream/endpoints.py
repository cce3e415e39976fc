"""Where upstreams are."""

from dataclasses import dataclass

from gateway.wire.links import LinkPolicy
from gateway.wire.provider import Provider


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how one upstream is spoken to."""

    name: str
    dialect: Provider
    base_url: str
    links: LinkPolicy
