"""Where upstreams are."""

from dataclasses import dataclass, field

import httpx

from gateway.wire import Dialect
from gateway.wire.links import LinkPolicy


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how one upstream is spoken to."""

    name: str
    dialect: Dialect
    base_url: str
    links: LinkPolicy
    url: httpx.URL = field(init=False, repr=False)
    """Where images are asked for."""
    host: str = field(init=False, repr=False)
    """For the header."""

    def __post_init__(self) -> None:
        url = httpx.URL(self.base_url + self.dialect.path)
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "host", url.netloc.decode("ascii"))
